//! HTTP/2 clients in front of HTTP/1.1 backends.

mod arrival;
mod bodies;
mod early;
mod endings;
mod floods;
mod flow;
mod limits;
mod responses;
mod streams;
mod websocket;
