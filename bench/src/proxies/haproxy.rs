//! `HAProxy`: configuration, control socket and reloads.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::Signal;

use super::{Affinity, Drained, Front, Product, Setup};
use crate::process::first_line;

/// `HAProxy`, with one thread.
#[derive(Debug)]
pub struct Haproxy;

impl Product for Haproxy {
    fn name(&self) -> &'static str {
        "HAProxy"
    }

    fn version(&self) -> Result<String> {
        let line = first_line(Command::new("haproxy").arg("-v"))?;
        Ok(line.split_whitespace().take(3).filter(|word| *word != "version").collect::<Vec<_>>().join(" "))
    }

    fn config(&self, setup: &Setup) -> String {
        let stick = setup.affinity == Affinity::StickTable;
        let insert = setup.affinity == Affinity::InsertCookie;
        let hash =
            if setup.affinity == Affinity::HashIp { "req.hdr(x-forwarded-for)" } else { "req.cook(SID)" };
        let mut backend = String::new();
        if stick || insert {
            backend += "    balance roundrobin\n";
        } else {
            let balance =
                if setup.affinity == Affinity::Address { "source" } else { &format!("hash {hash}") };
            let _ = write!(backend, "    balance {balance}\n    hash-type consistent\n");
        }
        if insert {
            backend += "    cookie HA insert indirect nocache httponly\n";
        }
        if stick {
            backend += "    stick-table type string len 64 size 1m expire 30m peers fleet\n";
            backend += "    stick match req.cook(SID)\n";
            backend += "    stick store-response res.cook(SID)\n";
        }
        if setup.checks {
            backend += "    option httpchk GET /healthz\n";
            backend += "    option redispatch 1\n    retries 3\n    retry-on conn-failure empty-response\n";
            backend += "    default-server check inter 200ms fastinter 100ms downinter 200ms rise 2 fall 3\n";
        }
        for server in &setup.backends {
            // By default, HAProxy numbers servers in file order and hashes the numbers, so
            // removing one server would move all the servers after it.
            let number = server.id.trim_start_matches('b');
            let cookie = if insert { format!(" cookie {}", server.id) } else { String::new() };
            let weight = if server.drain { " weight 0" } else { "" };
            let _ =
                writeln!(backend, "    server {} {} id {number}{cookie}{weight}", server.id, server.address);
        }
        let mut peers = String::new();
        if stick {
            peers += "peers fleet\n";
            for (name, address) in &setup.fleet {
                let _ = writeln!(peers, "    peer {name} {address}");
            }
        }
        let pem = setup.pem();
        let bind_options = match setup.front {
            Front::Http1 => String::new(),
            Front::Https => format!(" ssl crt {} alpn http/1.1", pem.display()),
            Front::H2c => " proto h2".to_owned(),
            Front::H2 => format!(" ssl crt {} alpn h2", pem.display()),
        };
        let socket = setup.file("socket");
        format!(
            "global
    nbthread 1
    maxconn {}
    stats socket {} mode 600 level admin
    hard-stop-after 5s
defaults
    mode http
    timeout connect 1s
    timeout client 300s
    timeout server 60s
    timeout http-request 60s
    timeout http-keep-alive 300s
    option forwardfor
    http-reuse always
{peers}frontend in
    bind {}{bind_options} backlog 4096
    default_backend web
backend web
{backend}",
            // HAProxy derives its file descriptor limit from this, and closes idle server
            // connections beyond a quarter of that limit.
            setup.connections + 4000,
            socket.display(),
            setup.listen
        )
    }

    fn command(&self, setup: &Setup) -> Command {
        let mut command = Command::new("haproxy");
        // Reloads need a master process. Without reloads, one process is enough.
        if setup.checks {
            command.arg("-W");
        }
        command.arg("-q").arg("-L").arg(&setup.name).arg("-f").arg(setup.config());
        command
    }

    fn reload_signal(&self) -> Signal {
        Signal::USR2
    }

    /// A new process first tries to get the stick table from a peer, for 5 s in each of two
    /// phases. Until then it does not send its table to a successor.
    fn settled(&self, setup: &Setup) -> Result<bool> {
        if setup.affinity != Affinity::StickTable {
            return Ok(true);
        }
        Ok(resync_finished(&command(setup, "show peers")?))
    }

    fn drain(&self, setup: &Setup, backend: &str) -> Result<Drained> {
        let answer = command(setup, &format!("set server web/{backend} state drain"))?;
        if !answer.trim().is_empty() {
            bail!("HAProxy refused to drain {backend}: {}", answer.trim());
        }
        Ok(Drained::ByCommand)
    }
}

fn command(setup: &Setup, line: &str) -> Result<String> {
    let mut socket = UnixStream::connect(setup.file("socket"))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    writeln!(socket, "{line}")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Parses `show peers`. Returns true if both resync phases are over: from the old process
/// and from other peers.
fn resync_finished(answer: &str) -> bool {
    let flags = answer.lines().find(|line| line.contains(" id=")).and_then(|line| {
        let flags = line.split(' ').find_map(|word| word.strip_prefix("flags=0x"))?;
        u32::from_str_radix(flags, 16).ok()
    });
    flags.is_some_and(|flags| flags & 3 == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resync_is_finished_after_both_phases() {
        let answer = |flags| {
            format!(
                "0x55d2: [24/Nov/2026:07:28:03] id=fleet disabled=0 flags={flags} resync_timeout=1s task_calls=3\n  \
                 0x55d3: id=one(local,inactive) addr=127.0.0.3:1 last_status=NONE\n        flags=0x3\n"
            )
        };
        assert!(resync_finished(&answer("0x1103")));
        assert!(!resync_finished(&answer("0x1101")));
        assert!(!resync_finished(&answer("0x0")));
        assert!(!resync_finished(""));
    }
}
