//! Third-party clients (curl, Python, Node, gRPC, Chromium) through the real proxy to real backends.
//!
//! Python and Node packages are installed once, in cargo's target directory. If a program is
//! missing, the test is skipped and prints one line to the uncaptured stderr.

mod browser;
mod curl;
mod grpc;
#[path = "../it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the harness is written for the integration tests")]
mod harness;
mod node;
mod programs;
mod python;
mod running;
mod setting;
mod site;
