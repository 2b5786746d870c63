//! The request of which `homing explain` is asked.

use super::Question;
use crate::affinity::key::RequestView;
use crate::model::router::host_name;

/// A request made of arguments.
pub(super) struct Asked {
    path_and_query: String,
    host: String,
    /// Names in lower case.
    fields: Vec<(String, Vec<u8>)>,
}

impl Asked {
    /// Makes the request, or says which argument is no part of one.
    pub(super) fn new(question: &Question) -> Result<Self, String> {
        if !question.path.starts_with('/') {
            return Err(format!("the path \"{}\" does not begin with `/`", question.path));
        }
        let mut fields = Vec::new();
        for header in &question.headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| format!("the field \"{header}\" is not `Name: value`"))?;
            fields.push((name.trim().to_ascii_lowercase(), value.trim().as_bytes().to_vec()));
        }
        for cookie in &question.cookies {
            if !cookie.contains('=') {
                return Err(format!("the cookie \"{cookie}\" is not `NAME=value`"));
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

    /// The host asked for, in lower case, without port.
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
