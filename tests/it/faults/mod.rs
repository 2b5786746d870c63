//! Backends that misbehave, come and go, and signals, under 64 clients at once.
//!
//! Whatever happens: every request has an answer, every answer is that to its
//! own request (each carries a number, and the client's connection goes on),
//! sessions stay where they were as long as they can, nothing but what may be
//! done twice is delivered twice, and who has nothing to do with the fault sees
//! nothing of it.

mod crowd;
mod misbehaviour;
mod outage;
mod program;
mod removal;
mod signals;
