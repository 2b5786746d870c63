//! HTTP/2 from clients, to backends that speak HTTP/1.1.

mod arrival;
mod bodies;
mod endings;
mod floods;
mod flow;
mod limits;
mod responses;
mod streams;
mod websocket;
