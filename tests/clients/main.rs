//! Real clients: programs and libraries that others wrote, through the real
//! proxy, to real backends.
//!
//! What is needed of Python and Node is installed once, below cargo's target
//! directory. Where a program is missing a test says so on the real standard
//! error, in one line, and is skipped.

mod browser;
mod curl;
mod grpc;
#[path = "../it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "it is whole for the integration tests")]
mod harness;
mod node;
mod programs;
mod python;
mod running;
mod setting;
mod site;
