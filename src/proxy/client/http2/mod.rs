//! HTTP/2 connections from clients (RFC 9113). Each stream is bridged: the request pipeline sees a
//! connection with one HTTP/1.1 request.

pub(crate) mod connection;
mod flood;
mod stream;
mod transport;

pub(crate) use flood::PREFACE;
