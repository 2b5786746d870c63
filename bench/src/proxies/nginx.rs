//! nginx (the open source edition): configuration and signals.

use std::fmt::Write;
use std::process::Command;

use anyhow::Result;
use rustix::process::Signal;

use super::{Affinity, Product, Setup};
use crate::process::first_line;

/// nginx, with one worker.
#[derive(Debug)]
pub struct Nginx;

impl Product for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn version(&self) -> Result<String> {
        let line = first_line(Command::new("nginx").arg("-v"))?;
        Ok(line.trim_start_matches("nginx version: ").replace("nginx/", "nginx "))
    }

    fn config(&self, setup: &Setup) -> String {
        let dir = setup.dir.path().display();
        // Its temporary files are in the run's folder, which other users cannot access.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let connections = 2 * setup.connections + 1024;
        let (real_ip, key) = match setup.affinity {
            Affinity::HashIp => {
                ("set_real_ip_from 127.0.0.0/8; real_ip_header X-Forwarded-For;", "$remote_addr")
            }
            Affinity::Address => ("", "$remote_addr"),
            _ => ("", "$cookie_SID"),
        };
        // Open source nginx has passive checks only. A short `fail_timeout` matches the other
        // proxies' checks, so that a scenario takes seconds.
        let checks = if setup.checks { "max_fails=2 fail_timeout=1s" } else { "max_fails=0" };
        let mut servers = String::new();
        for backend in &setup.backends {
            // nginx has no drain; `down` is the closest.
            let down = if backend.drain { " down" } else { "" };
            let _ = writeln!(servers, "        server {} {checks}{down};", backend.address);
        }
        let listen = setup.listen;
        let (mut options, mut tls) = (String::new(), String::new());
        if setup.front.tls() {
            options += " ssl";
            let pem = setup.pem();
            let pem = pem.display();
            tls = format!(
                "ssl_certificate {pem};\n        ssl_certificate_key {pem};\n        ssl_protocols TLSv1.2 TLSv1.3;"
            );
        }
        if setup.front.http2() {
            options += " http2";
        }
        format!(
            "{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {connections};
pid {dir}/nginx.pid;
error_log {dir}/error.log crit;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    tcp_nodelay on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    {real_ip}
    upstream web {{
        hash {key} consistent;
{servers}        keepalive 128;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen}{options} backlog=4096;
        {tls}
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"
        )
    }

    fn command(&self, setup: &Setup) -> Command {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(setup.dir.path()).arg("-e").arg(setup.file("error.log"));
        command.arg("-c").arg(setup.config());
        command
    }

    fn stop_signal(&self) -> Signal {
        Signal::QUIT
    }
}
