//! Homing: build and configuration.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Affinity, Product, Setup};
use crate::process::first_line;

/// Homing, with one worker and otherwise default settings.
#[derive(Debug)]
pub struct Homing {
    binary: PathBuf,
}

impl Homing {
    /// Uses the binary at `path`, or builds one from the parent folder.
    pub fn new(path: Option<PathBuf>) -> Result<Self> {
        if let Some(binary) = path {
            return Ok(Self { binary });
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("bench/ has no parent folder")?;
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--bin", "homing"]).current_dir(root);
        if !cargo.status().context("run cargo")?.success() {
            bail!("failed to build Homing; pass a binary with --homing, or select other proxies");
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Ok(Self { binary: root.join(target).join("release/homing") })
    }
}

impl Homing {
    /// Returns the path of the binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }
}

impl Product for Homing {
    fn name(&self) -> &'static str {
        "Homing"
    }

    fn version(&self) -> Result<String> {
        first_line(Command::new(&self.binary).arg("--version"))
    }

    fn config(&self, setup: &Setup) -> String {
        let mut text = format!(
            "[server]\nworkers = 1\nadmin = \"{}\"\n\n[limits]\nconnections_per_client = \"off\"\n\n[[listener]]\nbind = \"{}\"\n",
            setup.side, setup.listen
        );
        if setup.front.tls() {
            let _ = writeln!(text, "tls = {{ certs = [\"{}\"] }}", setup.pem().display());
        }
        for backend in &setup.backends {
            let state = if backend.drain { "state = \"drain\"\n" } else { "" };
            let _ = write!(
                text,
                "\n[[upstream.web.backend]]\nid = \"{}\"\naddress = \"{}\"\n{state}",
                backend.id, backend.address
            );
        }
        let by_address = matches!(setup.affinity, Affinity::HashIp | Affinity::Address);
        let key = if by_address { "ip" } else { "cookie:SID" };
        let remember = match setup.affinity {
            Affinity::HashCookie => "remember = \"none\"".to_owned(),
            Affinity::SealedCookie => {
                format!("remember = \"cookie\"\ncookie = {{ keys_file = \"{}\" }}", setup.keys_file.display())
            }
            // Without restarts, keep the default: a table in memory only.
            _ if !setup.checks => "remember = \"table\"".to_owned(),
            _ => {
                let file = setup.file("table");
                format!("remember = \"table\"\ntable = {{ file = \"{}\" }}", file.display())
            }
        };
        let _ = write!(text, "\n[upstream.web.affinity]\nkey = [\"{key}\"]\n{remember}\n");
        if setup.checks {
            // As frequent as the other proxies' checks. The default `penalty` is 15 s.
            text += "\n[upstream.web.health_check]\npath = \"/healthz\"\n\
                     interval = \"200ms\"\nfast_interval = \"100ms\"\ntimeout = \"1s\"\nrise = 2\nfall = 3\n\
                     \n[upstream.web.passive]\npenalty = \"1s\"\n";
        }
        if setup.affinity == Affinity::HashIp {
            text += "\n[client_ip]\ntrusted = [\"127.0.0.0/8\"]\nfrom = [\"x-forwarded-for\"]\n";
        }
        text
    }

    fn command(&self, setup: &Setup) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["run", "--config"]).arg(setup.config());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxies::{Backend, Front};

    fn setup(affinity: Affinity, checks: bool) -> Setup {
        let address = |port| ([127, 0, 0, 1], port).into();
        let backend =
            |number: u16, drain| Backend { id: format!("b{number}"), address: address(number), drain };
        Setup {
            dir: tempfile::tempdir().unwrap(),
            listen: address(80),
            front: Front::Http1,
            side: address(81),
            name: "one".into(),
            fleet: vec![],
            backends: vec![backend(1, false), backend(2, true)],
            affinity,
            checks,
            connections: 1,
            keys_file: "keys".into(),
        }
    }

    #[test]
    fn drained_backend_has_state_drain_in_the_file() {
        let homing = Homing { binary: "homing".into() };
        let text = homing.config(&setup(Affinity::SealedCookie, true));
        assert!(text.contains("id = \"b1\"\naddress = \"127.0.0.1:1\"\n\n"));
        assert!(text.contains("id = \"b2\"\naddress = \"127.0.0.1:2\"\nstate = \"drain\"\n"));
        assert!(text.contains("remember = \"cookie\"\ncookie = { keys_file = \"keys\" }"));
    }

    #[test]
    fn table_file_is_only_set_for_scenarios_with_restarts() {
        let homing = Homing { binary: "homing".into() };
        assert!(homing.config(&setup(Affinity::Table, true)).contains("table = { file = "));
        let text = homing.config(&setup(Affinity::Table, false));
        assert!(text.ends_with("key = [\"cookie:SID\"]\nremember = \"table\"\n"), "{text}");
    }
}
