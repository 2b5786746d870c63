//! HTTP/2 from clients (RFC 9113), bridged: see `proxy::bridge`.

pub(crate) mod connection;
mod flood;
mod stream;
mod transport;

pub(crate) use flood::PREFACE;
