//! Integration tests: the whole proxy over real sockets, one module per
//! concern. `harness` says what they are made of.
//!
//! No test sleeps: what must happen is waited for, at most
//! `HOMING_TEST_PATIENCE_MS` (10 s).

mod affinity;
mod failover;
mod harness;
mod http;
mod limits;
mod malformed;
mod routing;
mod tunnel;
