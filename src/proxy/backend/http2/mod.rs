//! HTTP/2 connections to backends. Requests share them. Each request's stream is bridged, so that
//! the pipeline sees a connection of its own.

mod budget;
mod cancelled;
mod fault;
mod link;
mod links;
mod observed;
mod send_window;
mod stream;
mod unfinished;

pub(crate) use fault::Fault;
pub(crate) use links::Links;
pub(crate) use stream::bridged;
