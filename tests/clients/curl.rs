//! curl, over every HTTP version that Homing serves.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Backend, Gate, Proxy, Script, Step};
use crate::programs;
use crate::running::Running;
use crate::setting::{HOST, Setting, tls, trailing};
use crate::site::{Site, bytes, sha256};

/// How curl connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Http1,
    Http1Tls,
    /// HTTP/2 by prior knowledge.
    H2c,
    H2Tls,
}

impl Mode {
    const ALL: [Self; 4] = [Self::Http1, Self::Http1Tls, Self::H2c, Self::H2Tls];

    fn version(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http1Tls => "1.1",
            Self::H2c | Self::H2Tls => "2",
        }
    }
}

/// curl and the proxy's configuration.
struct Curl {
    program: PathBuf,
    setting: Setting,
}

impl Curl {
    fn new() -> Option<Self> {
        programs::curl("HTTP2").map(|program| Self { program, setting: Setting::new() })
    }

    /// Returns a `curl --silent` command that requests this path.
    fn command(&self, proxy: &Proxy, mode: Mode, path: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // `-q` must come first: ignore the user's curlrc.
        command.args([
            "-q",
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--cacert",
            self.setting.authority(),
        ]);
        let (scheme, address) = match mode {
            Mode::Http1 | Mode::H2c => ("http", proxy.addr()),
            Mode::Http1Tls | Mode::H2Tls => ("https", tls(proxy)),
        };
        command.arg(match mode {
            Mode::Http1 | Mode::Http1Tls => "--http1.1",
            Mode::H2c => "--http2-prior-knowledge",
            Mode::H2Tls => "--http2",
        });
        let port = address.port();
        command.args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")]);
        command.args(args).arg(format!("{scheme}://{HOST}:{port}{path}"));
        command
    }

    async fn run(&self, proxy: &Proxy, mode: Mode, path: &str, args: &[&str]) -> String {
        Running::start(&mut self.command(proxy, mode, path, args)).finish().await
    }
}

/// Starts a site behind the proxy.
async fn site(curl: &Curl) -> (Site, Proxy) {
    let site = Site::start("a").await;
    let proxy = curl.setting.proxy().limits("body_bytes = \"64MiB\"").upstream("web", &[]);
    let proxy = proxy.member("a", site.address).start().await;
    (site, proxy)
}

fn field<'v>(seen: &'v Value, name: &str) -> Option<&'v str> {
    let fields = seen["fields"].as_array().expect("fields");
    fields.iter().find(|field| field[0] == name).and_then(|field| field[1].as_str())
}

#[tokio::test]
async fn every_version_and_redirects_are_served() {
    let Some(curl) = Curl::new() else { return };
    let (_site, proxy) = site(&curl).await;
    for mode in Mode::ALL {
        let wanted = "\n%{http_version} %{http_code} %{num_redirects}";
        // With prior knowledge, curl 7.88 (Debian 12) cannot reuse a connection (curl issue
        // 10634), so the redirect is followed by hand.
        let (path, redirects) = match mode {
            Mode::H2c => {
                let args = ["--write-out", "%{http_code} %{redirect_url}"];
                let answer = curl.run(&proxy, mode, "/redirect", &args).await;
                let location = answer.trim_end().strip_prefix("302 http://").expect("a redirect");
                (location.split_once('/').map(|(_, path)| format!("/{path}")).expect("a path"), 0)
            }
            _ => ("/redirect".to_owned(), 1),
        };
        let text = curl.run(&proxy, mode, &path, &["--location", "--write-out", wanted]).await;
        let (seen, outcome) = text.trim_end().rsplit_once('\n').expect("two lines");
        assert_eq!(outcome, format!("{} 200 {redirects}", mode.version()), "{mode:?}");
        let seen: Value = serde_json::from_str(seen).expect("JSON");
        assert_eq!(seen["target"], "/seen?redirected=1", "{mode:?}");
        let scheme = if matches!(mode, Mode::Http1Tls | Mode::H2Tls) { "https" } else { "http" };
        assert_eq!(field(&seen, "x-forwarded-proto"), Some(scheme), "{mode:?}");
        assert!(field(&seen, "host").is_some_and(|host| host.starts_with(HOST)), "{mode:?}: {seen}");
    }
}

#[tokio::test]
async fn upgrade_to_h2c_is_ignored() {
    let Some(curl) = Curl::new() else { return };
    let (_site, proxy) = site(&curl).await;
    let args = ["--http2", "--write-out", "\n%{http_version} %{http_code}"];
    let text = curl.run(&proxy, Mode::Http1, "/seen", &args).await;
    let (seen, outcome) = text.trim_end().rsplit_once('\n').expect("two lines");
    assert_eq!(outcome, "1.1 200");
    let seen: Value = serde_json::from_str(seen).expect("JSON");
    for name in ["upgrade", "http2-settings"] {
        assert_eq!(field(&seen, name), None, "{name} reached the backend");
    }
}

#[tokio::test]
async fn large_uploads_and_downloads_arrive_complete() {
    const LENGTH: usize = 24 << 20;
    let Some(curl) = Curl::new() else { return };
    let (_site, proxy) = site(&curl).await;
    let content = bytes(LENGTH);
    let wanted = sha256(&content);
    let file = curl.setting.file("large", &content);
    let upload = format!("@{file}");
    for mode in Mode::ALL {
        let digest = curl.run(&proxy, mode, "/digest", &["--data-binary", &upload]).await;
        assert_eq!(digest, format!("{LENGTH} {wanted}\n"), "{mode:?} up");
        // Chunked where the version allows it, with the `Expect` header that curl adds.
        let args = ["--upload-file", &file, "--request", "POST", "--header", "Transfer-Encoding: chunked"];
        if mode.version() == "1.1" {
            let digest = curl.run(&proxy, mode, "/digest", &args).await;
            assert_eq!(digest, format!("{LENGTH} {wanted}\n"), "{mode:?} up in chunks");
        }
        let down = format!("{file}.{mode:?}");
        curl.run(&proxy, mode, &format!("/bytes/{LENGTH}"), &["--output", &down]).await;
        assert_eq!(sha256(&std::fs::read(&down).expect("a file")), wanted, "{mode:?} down");
    }
}

#[tokio::test]
async fn body_waits_for_100_continue() {
    let Some(curl) = Curl::new() else { return };
    let (_site, proxy) = site(&curl).await;
    for mode in [Mode::Http1, Mode::Http1Tls] {
        let args =
            ["--header", "Expect: 100-continue", "--expect100-timeout", "50", "--data", "x=1", "--include"];
        let text = curl.run(&proxy, mode, "/digest", &args).await;
        assert!(text.starts_with("HTTP/1.1 100"), "{mode:?}: {text}");
        assert!(text.ends_with(&format!("3 {}\n", sha256(b"x=1"))), "{mode:?}: {text}");
    }
}

#[tokio::test]
async fn early_hints_arrive_before_the_response() {
    let Some(curl) = Curl::new() else { return };
    let a = Backend::start("a").await;
    let proxy = curl.setting.proxy().upstream("web", &[&a]).start().await;
    for mode in Mode::ALL {
        let gate = Gate::closed();
        let hints = Step::Send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n".to_vec());
        let script = [Step::ReadHead, Step::ReadBody, hints, Step::Wait(gate.clone()), Step::Reply];
        a.set(Script::new(script));
        // curl flushes dumped headers, but not those from `--include`.
        let mut running = Running::start(&mut curl.command(&proxy, mode, "/", &["--dump-header", "-"]));
        let status = running.line().await;
        assert!(status.contains(" 103"), "{mode:?}: {status}");
        gate.open();
        let rest = running.finish().await;
        assert!(rest.to_lowercase().contains("link: </style.css>"), "{mode:?}: {rest}");
        assert!(rest.contains(&format!("HTTP/{} 200", mode.version())), "{mode:?}: {rest}");
    }
}

#[tokio::test]
async fn response_trailers_arrive() {
    let Some(curl) = Curl::new() else { return };
    let backend = trailing().await;
    let proxy = curl.setting.proxy().upstream("web", &[&backend]).start().await;
    for mode in Mode::ALL {
        // curl prints trailers as headers after the body.
        let args = ["--include", "--header", "TE: trailers"];
        let text = curl.run(&proxy, mode, "/trailers", &args).await;
        let body = text.find("with trailers").unwrap_or_else(|| panic!("{mode:?}: {text}"));
        let trailer =
            text.to_lowercase().rfind("x-checksum: 0815").unwrap_or_else(|| panic!("{mode:?}: {text}"));
        assert!(body < trailer, "{mode:?}: {text}");
    }
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let Some(curl) = Curl::new() else { return };
    for mode in Mode::ALL {
        let (site, proxy) = site(&curl).await;
        let mut running = Running::start(&mut curl.command(&proxy, mode, "/events", &["--no-buffer"]));
        for number in 0..3 {
            site.send_event(&format!("event {number}")).await;
            assert_eq!(running.line().await, format!("data: event {number}"), "{mode:?}");
            assert_eq!(running.line().await, "");
        }
        site.end_events();
        assert_eq!(running.finish().await, "", "{mode:?}");
    }
}

#[tokio::test]
async fn cookie_jar_keeps_its_session_over_every_version() {
    let Some(curl) = Curl::new() else { return };
    let backends = [
        Backend::named("a").sessions("SID").start().await,
        Backend::named("b").sessions("SID").start().await,
        Backend::named("c").sessions("SID").start().await,
    ];
    let all: Vec<_> = backends.iter().collect();
    let proxy = curl.setting.proxy().upstream("web", &all);
    let proxy = proxy.affinity("key = [\"cookie:SID\"], remember = \"table\"").start().await;
    let mut met = std::collections::BTreeSet::new();
    for user in 0..6 {
        // An empty cookie jar, which curl fills.
        let jar = curl.setting.file(&format!("jar{user}"), "");
        let mut first = None;
        for mode in Mode::ALL {
            // The cookie is not `Secure`, so curl sends it to both listeners of the host.
            let args =
                ["--cookie", &jar, "--cookie-jar", &jar, "--dump-header", "-", "--output", "/dev/null"];
            let head = curl.run(&proxy, mode, "/", &args).await.to_lowercase();
            let value = |name: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("no {name} in {head}")).trim().to_owned()
            };
            let (backend, session, state) =
                (value("x-backend:"), value("x-session:"), value("x-session-state:"));
            let wanted = if first.is_none() { "new" } else { "known" };
            assert_eq!(state, wanted, "{mode:?}");
            let first = first.get_or_insert_with(|| (backend.clone(), session.clone()));
            assert_eq!(*first, (backend, session), "{mode:?}");
        }
        met.insert(first.expect("an answer").0);
    }
    assert!(met.len() > 1, "all sessions went to {met:?}");
}

/// The end of an HTTP/2 connection ends its streams. Over HTTP/1, the client may still read after
/// it has sent its last byte (RFC 9112 §9.6): see `client_close` in `tests/it`.
#[tokio::test]
async fn http2_disconnect_is_noticed_at_the_backend() {
    let Some(curl) = Curl::new() else { return };
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = curl.setting.proxy().upstream("web", &[&a]).start().await;
    for (count, mode) in (1..).zip([Mode::H2c, Mode::H2Tls]) {
        let mut command = curl.command(&proxy, mode, "/", &[]);
        let mut child = command.stdout(Stdio::null()).kill_on_drop(true).spawn().expect("curl");
        crate::harness::eventually("the request arrives", async || a.requests() == count).await;
        child.kill().await.expect("kill curl");
        crate::harness::eventually(format!("{mode:?}: the backend connection closes"), async || {
            a.abandoned() == count
        })
        .await;
    }
}

/// A truncated body must not look complete to curl.
#[tokio::test]
async fn truncated_body_is_an_error_to_the_client() {
    let Some(curl) = Curl::new() else { return };
    let a = Backend::named("a").die_mid_body(1000).start().await;
    let proxy = curl.setting.proxy().upstream("web", &[&a]).start().await;
    for mode in Mode::ALL {
        let status =
            curl.command(&proxy, mode, "/", &["--output", "/dev/null"]).stderr(Stdio::null()).status();
        let code = status.await.expect("curl").code();
        // 18 partial file, 92 stream error, 56 receive error.
        assert!(matches!(code, Some(18 | 92 | 56)), "{mode:?}: {code:?}");
    }
}
