//! The shapes of load.

use std::fmt::Write;

use clap::ValueEnum;

/// A shape of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// 64 connections, Host and the session cookie, 100 bytes back.
    Small,
    /// As `small`, with the headers of a browser.
    Browser,
    /// As `small`, with 512 connections.
    Conn512,
    /// As `small`, with a body of 1 KiB to the backend.
    Post,
    /// As `small`, with 1 MiB back.
    Large,
}

/// Distinct sessions.
const SESSIONS: u32 = 10_000;

/// What a browser sends besides Host and Cookie.
const BROWSER: [(&str, &str); 13] = [
    ("Connection", "keep-alive"),
    ("Cache-Control", "max-age=0"),
    ("sec-ch-ua", "\\\"Chromium\\\";v=\\\"142\\\", \\\"Not_A Brand\\\";v=\\\"99\\\""),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\\\"Linux\\\""),
    ("Upgrade-Insecure-Requests", "1"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    ),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Referer", "http://shop.example.com/catalogue?page=3"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
];

impl Case {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Browser => "browser",
            Self::Conn512 => "conn512",
            Self::Post => "post",
            Self::Large => "large",
        }
    }

    /// What it is, for the reader of a table.
    pub fn description(self) -> &'static str {
        match self {
            Self::Small => "64 connections, ~70 bytes of request, 100-byte body back",
            Self::Browser => "64 connections, 15 browser headers (~700 bytes), 100-byte body back",
            Self::Conn512 => "512 connections, otherwise as small",
            Self::Post => "64 connections, 1 KiB body to the backend, 100-byte body back",
            Self::Large => "64 connections, 1 MiB body back",
        }
    }

    /// Client connections.
    pub fn connections(self) -> usize {
        if self == Self::Conn512 { 512 } else { 64 }
    }

    /// Length of the response's body.
    pub fn response_length(self) -> usize {
        if self == Self::Large { 1 << 20 } else { 100 }
    }

    /// The script for wrk: requests are made once, before the clock starts.
    pub fn script(self) -> String {
        let method = if self == Self::Post { "POST" } else { "GET" };
        let body = if self == Self::Post { "string.rep('x', 1024)" } else { "nil" };
        let mut headers = String::new();
        let mut cookie = "SID=";
        if self == Self::Browser {
            cookie = "_ga=GA1.2.1234567890.1700000000; theme=dark; consent=yes; SID=";
            for (name, value) in BROWSER {
                let _ = writeln!(headers, "  headers[\"{name}\"] = \"{value}\"");
            }
        }
        format!(
            r#"local requests = {{}}
local turn = 0
function init(args)
  local headers = {{}}
{headers}  for i = 1, {SESSIONS} do
    local id = string.format("%08x%08x", (i * 2654435761) % 4294967296, (i * 2246822519) % 4294967296)
    headers["Cookie"] = "{cookie}" .. id
    requests[i] = wrk.format("{method}", "/", headers, {body})
  end
end
function request()
  turn = turn % {SESSIONS} + 1
  return requests[turn]
end
function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    "homing-bench requests=%d micros=%d bytes=%d connect=%d read=%d write=%d status=%d timeout=%d p50=%d p90=%d p99=%d max=%d",
    summary.requests, summary.duration, summary.bytes,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browser_requests_have_fifteen_headers() {
        // Host and Cookie come on top.
        assert_eq!(BROWSER.len() + 2, 15);
        assert_eq!(Case::Browser.script().matches("headers[\"").count(), 14);
        assert_eq!(Case::Small.script().matches("headers[\"").count(), 1);
    }

    #[test]
    fn only_post_has_a_body() {
        assert!(Case::Post.script().contains("\"POST\""));
        assert!(Case::Large.script().contains("headers, nil"));
        assert_eq!(Case::Large.response_length(), 1_048_576);
    }
}
