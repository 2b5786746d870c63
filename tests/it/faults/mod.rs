//! Misbehaving backends, outages, reloads and signals, under 64 concurrent clients.
//!
//! The invariants: every request gets a response, and it is the response to that request (each
//! carries a number, and client connections are reused). Sessions keep their backend as long as
//! possible. Only idempotent requests are delivered twice. Clients of healthy backends see nothing
//! of the fault.

mod crowd;
mod misbehaviour;
mod outage;
mod program;
mod removal;
mod signals;
