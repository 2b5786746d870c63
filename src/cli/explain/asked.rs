//! The request that `homing explain` explains.

use super::question::Question;
use crate::affinity::key::RequestView;
use crate::model::router::host_name;

/// A request built from command line arguments.
pub(super) struct Asked {
    path_and_query: String,
    host: String,
    /// Headers, with names in lower case.
    fields: Vec<(String, Vec<u8>)>,
}

impl Asked {
    /// Builds the request.
    ///
    /// # Errors
    /// An argument is invalid.
    pub(super) fn new(question: &Question) -> Result<Self, String> {
        if !question.path.starts_with('/') {
            return Err(format!("invalid path \"{}\": must start with `/`", question.path));
        }
        let mut fields = Vec::new();
        for header in &question.headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| format!("invalid header \"{header}\": expected `Name: value`"))?;
            fields.push((name.trim().to_ascii_lowercase(), value.trim().as_bytes().to_vec()));
        }
        for cookie in &question.cookies {
            if !cookie.contains('=') {
                return Err(format!("invalid cookie \"{cookie}\": expected `NAME=value`"));
            }
            fields.push(("cookie".to_owned(), cookie.as_bytes().to_vec()));
        }
        let written = fields.iter().find(|(name, _)| name == "host");
        let host = match (&question.host, written) {
            (Some(host), _) => host.clone(),
            (None, Some((_, value))) => String::from_utf8_lossy(value).into_owned(),
            (None, None) => String::new(),
        };
        Ok(Self {
            path_and_query: question.path.clone(),
            host: host_name(&host).to_ascii_lowercase(),
            fields,
        })
    }

    /// Returns the host of the request, in lower case, without port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

impl RequestView for Asked {
    fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_slice())
    }
}
