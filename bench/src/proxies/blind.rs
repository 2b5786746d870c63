//! The blind copy as a benchmarked product, without configuration or affinity.

use std::process::Command;

use anyhow::Result;

use super::{Front, Product, Setup};

/// [`crate::blind_copy`] in a separate process.
#[derive(Debug)]
pub struct Blind;

impl Product for Blind {
    fn name(&self) -> &'static str {
        "blind copy"
    }

    fn version(&self) -> Result<String> {
        Ok(format!("homing-bench {}", env!("CARGO_PKG_VERSION")))
    }

    fn takes(&self, front: Front) -> bool {
        front == Front::Http1
    }

    fn config(&self, _setup: &Setup) -> String {
        String::new()
    }

    fn command(&self, setup: &Setup) -> Command {
        let mut command = Command::new("/proc/self/exe");
        if let Ok(me) = std::env::current_exe() {
            command = Command::new(me);
        }
        command.args(["blind-copy", &setup.listen.to_string()]);
        command.args(setup.backends.iter().map(|backend| backend.address.to_string()));
        command
    }
}
