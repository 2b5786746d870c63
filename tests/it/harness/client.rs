//! A browser-like client that keeps its connection and its cookies.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::message::Response;
use super::raw::RawClient;

pub(crate) struct Client {
    address: SocketAddr,
    connection: Option<RawClient>,
    keep: bool,
    cookies: BTreeMap<String, String>,
    fields: Vec<String>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, keep: true, cookies: BTreeMap::new(), fields: Vec::new() }
    }

    /// Returns a client that sends `sid` in the cookie `SID`.
    pub(crate) fn with_sid(address: SocketAddr, sid: &str) -> Self {
        Self::new(address).cookie("SID", sid)
    }

    /// Opens a new connection for every request, so that requests reach every worker.
    pub(crate) fn reconnecting(mut self) -> Self {
        self.keep = false;
        self
    }

    pub(crate) fn cookie(mut self, name: &str, value: &str) -> Self {
        self.cookies.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds this field line to every request.
    pub(crate) fn field(mut self, line: &str) -> Self {
        self.fields.push(line.to_owned());
        self
    }

    /// Returns a client with the same cookies that talks to another proxy.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        Self {
            address,
            connection: None,
            keep: self.keep,
            cookies: self.cookies.clone(),
            fields: self.fields.clone(),
        }
    }

    pub(crate) fn cookie_value(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, b"").await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) -> Response {
        self.request("POST", path, body).await
    }

    pub(crate) async fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Response {
        let mut fields = self.fields.clone();
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
            fields.push(format!("Cookie: {}", pairs.join("; ")));
        }
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => RawClient::connect(self.address).await,
        };
        let response = connection.request(method, path, &fields, body).await;
        if self.keep && response.field("connection") != Some("close") {
            self.connection = Some(connection);
        }
        for line in response.fields.all("set-cookie") {
            self.take_cookie(line);
        }
        response
    }

    fn take_cookie(&mut self, line: &str) {
        let mut parts = line.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { return };
        if parts.any(|attribute| attribute.eq_ignore_ascii_case("max-age=0")) {
            self.cookies.remove(name);
        } else {
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
    }
}
