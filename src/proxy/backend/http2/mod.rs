//! HTTP/2 connections to backends. Requests share them. Each request's stream is bridged, so that
//! the pipeline sees a connection of its own.

mod fault;
mod link;
mod links;
mod observed;
mod stream;

pub(crate) use fault::Fault;
pub(crate) use links::Links;
pub(crate) use stream::bridged;
