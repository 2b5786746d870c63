//! curl, over everything that it speaks.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Backend, Gate, Proxy, Script, Step};
use crate::programs;
use crate::running::Running;
use crate::setting::{HOST, Setting, tls, trailing};
use crate::site::{Site, bytes, sha256};

/// How a client may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Http1,
    Http1Tls,
    /// By prior knowledge.
    H2c,
    H2Tls,
}

impl Way {
    const ALL: [Self; 4] = [Self::Http1, Self::Http1Tls, Self::H2c, Self::H2Tls];

    fn version(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http1Tls => "1.1",
            Self::H2c | Self::H2Tls => "2",
        }
    }
}

/// curl and what it stands before.
struct Curl {
    program: PathBuf,
    setting: Setting,
}

impl Curl {
    fn new() -> Option<Self> {
        programs::curl("HTTP2").map(|program| Self { program, setting: Setting::new() })
    }

    /// `curl --silent` and what the way needs, for this path.
    fn command(&self, proxy: &Proxy, way: Way, path: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // First: no settings of whoever runs the tests.
        command.args([
            "-q",
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--cacert",
            self.setting.authority(),
        ]);
        let (scheme, address) = match way {
            Way::Http1 | Way::H2c => ("http", proxy.addr()),
            Way::Http1Tls | Way::H2Tls => ("https", tls(proxy)),
        };
        command.arg(match way {
            Way::Http1 | Way::Http1Tls => "--http1.1",
            Way::H2c => "--http2-prior-knowledge",
            Way::H2Tls => "--http2",
        });
        let port = address.port();
        command.args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")]);
        command.args(args).arg(format!("{scheme}://{HOST}:{port}{path}"));
        command
    }

    async fn run(&self, proxy: &Proxy, way: Way, path: &str, args: &[&str]) -> String {
        Running::start(&mut self.command(proxy, way, path, args)).finish().await
    }
}

/// A site behind the proxy.
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
    for way in Way::ALL {
        let wanted = "\n%{http_version} %{http_code} %{num_redirects}";
        // With prior knowledge curl 7.88 (Debian 12) cannot use a connection
        // twice (its issue 10634): where it leads is asked for apart.
        let (path, redirects) = match way {
            Way::H2c => {
                let args = ["--write-out", "%{http_code} %{redirect_url}"];
                let answer = curl.run(&proxy, way, "/redirect", &args).await;
                let location = answer.trim_end().strip_prefix("302 http://").expect("a redirect");
                (location.split_once('/').map(|(_, path)| format!("/{path}")).expect("a path"), 0)
            }
            _ => ("/redirect".to_owned(), 1),
        };
        let text = curl.run(&proxy, way, &path, &["--location", "--write-out", wanted]).await;
        let (seen, outcome) = text.trim_end().rsplit_once('\n').expect("two lines");
        assert_eq!(outcome, format!("{} 200 {redirects}", way.version()), "{way:?}");
        let seen: Value = serde_json::from_str(seen).expect("JSON");
        assert_eq!(seen["target"], "/seen?redirected=1", "{way:?}");
        let scheme = if matches!(way, Way::Http1Tls | Way::H2Tls) { "https" } else { "http" };
        assert_eq!(field(&seen, "x-forwarded-proto"), Some(scheme), "{way:?}");
        assert!(field(&seen, "host").is_some_and(|host| host.starts_with(HOST)), "{way:?}: {seen}");
    }
}

#[tokio::test]
async fn an_offer_of_h2c_by_upgrade_is_not_taken() {
    let Some(curl) = Curl::new() else { return };
    let (_site, proxy) = site(&curl).await;
    let args = ["--http2", "--write-out", "\n%{http_version} %{http_code}"];
    let text = curl.run(&proxy, Way::Http1, "/seen", &args).await;
    let (seen, outcome) = text.trim_end().rsplit_once('\n').expect("two lines");
    assert_eq!(outcome, "1.1 200");
    let seen: Value = serde_json::from_str(seen).expect("JSON");
    for name in ["upgrade", "http2-settings"] {
        assert_eq!(field(&seen, name), None, "{name} reached the backend");
    }
}

#[tokio::test]
async fn large_uploads_and_downloads_arrive_whole() {
    const LENGTH: usize = 24 << 20;
    let Some(curl) = Curl::new() else { return };
    let (_site, proxy) = site(&curl).await;
    let content = bytes(LENGTH);
    let wanted = sha256(&content);
    let file = curl.setting.file("large", &content);
    let upload = format!("@{file}");
    for way in Way::ALL {
        let digest = curl.run(&proxy, way, "/digest", &["--data-binary", &upload]).await;
        assert_eq!(digest, format!("{LENGTH} {wanted}\n"), "{way:?} up");
        // In chunks, where the version has them; with an expectation, as curl sends it.
        let args = ["--upload-file", &file, "--request", "POST", "--header", "Transfer-Encoding: chunked"];
        if way.version() == "1.1" {
            let digest = curl.run(&proxy, way, "/digest", &args).await;
            assert_eq!(digest, format!("{LENGTH} {wanted}\n"), "{way:?} up in chunks");
        }
        let down = format!("{file}.{way:?}");
        curl.run(&proxy, way, &format!("/bytes/{LENGTH}"), &["--output", &down]).await;
        assert_eq!(sha256(&std::fs::read(&down).expect("a file")), wanted, "{way:?} down");
    }
}

#[tokio::test]
async fn the_body_waits_for_100_continue() {
    let Some(curl) = Curl::new() else { return };
    let (_site, proxy) = site(&curl).await;
    for way in [Way::Http1, Way::Http1Tls] {
        let args =
            ["--header", "Expect: 100-continue", "--expect100-timeout", "50", "--data", "x=1", "--include"];
        let text = curl.run(&proxy, way, "/digest", &args).await;
        assert!(text.starts_with("HTTP/1.1 100"), "{way:?}: {text}");
        assert!(text.ends_with(&format!("3 {}\n", sha256(b"x=1"))), "{way:?}: {text}");
    }
}

#[tokio::test]
async fn early_hints_come_before_the_response() {
    let Some(curl) = Curl::new() else { return };
    let a = Backend::start("a").await;
    let proxy = curl.setting.proxy().upstream("web", &[&a]).start().await;
    for way in Way::ALL {
        let gate = Gate::closed();
        let hints = Step::Send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n".to_vec());
        let script = [Step::ReadHead, Step::ReadBody, hints, Step::Wait(gate.clone()), Step::Reply];
        a.set(Script::new(script));
        // Heads that are dumped are flushed; those that are included are not.
        let mut running = Running::start(&mut curl.command(&proxy, way, "/", &["--dump-header", "-"]));
        let status = running.line().await;
        assert!(status.contains(" 103"), "{way:?}: {status}");
        gate.open();
        let rest = running.finish().await;
        assert!(rest.to_lowercase().contains("link: </style.css>"), "{way:?}: {rest}");
        assert!(rest.contains(&format!("HTTP/{} 200", way.version())), "{way:?}: {rest}");
    }
}

#[tokio::test]
async fn trailers_of_the_response_arrive() {
    let Some(curl) = Curl::new() else { return };
    let backend = trailing().await;
    let proxy = curl.setting.proxy().upstream("web", &[&backend]).start().await;
    for way in Way::ALL {
        // curl shows trailers as fields that come behind the body.
        let args = ["--include", "--header", "TE: trailers"];
        let text = curl.run(&proxy, way, "/trailers", &args).await;
        let body = text.find("with trailers").unwrap_or_else(|| panic!("{way:?}: {text}"));
        let trailer =
            text.to_lowercase().rfind("x-checksum: 0815").unwrap_or_else(|| panic!("{way:?}: {text}"));
        assert!(body < trailer, "{way:?}: {text}");
    }
}

#[tokio::test]
async fn events_come_one_by_one() {
    let Some(curl) = Curl::new() else { return };
    for way in Way::ALL {
        let (site, proxy) = site(&curl).await;
        let mut running = Running::start(&mut curl.command(&proxy, way, "/events", &["--no-buffer"]));
        for number in 0..3 {
            site.send_event(&format!("event {number}")).await;
            assert_eq!(running.line().await, format!("data: event {number}"), "{way:?}");
            assert_eq!(running.line().await, "");
        }
        site.end_events();
        assert_eq!(running.finish().await, "", "{way:?}");
    }
}

#[tokio::test]
async fn a_cookie_jar_keeps_its_session_over_every_version() {
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
        // One that curl begins, since it holds nothing.
        let jar = curl.setting.file(&format!("jar{user}"), "");
        let mut first = None;
        for way in Way::ALL {
            // The cookie is not `Secure`: it goes to both listeners, of one host.
            let args =
                ["--cookie", &jar, "--cookie-jar", &jar, "--dump-header", "-", "--output", "/dev/null"];
            let head = curl.run(&proxy, way, "/", &args).await.to_lowercase();
            let value = |name: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("no {name} in {head}")).trim().to_owned()
            };
            let (backend, session, state) =
                (value("x-backend:"), value("x-session:"), value("x-session-state:"));
            let wanted = if first.is_none() { "new" } else { "known" };
            assert_eq!(state, wanted, "{way:?}");
            let first = first.get_or_insert_with(|| (backend.clone(), session.clone()));
            assert_eq!(*first, (backend, session), "{way:?}");
        }
        met.insert(first.expect("an answer").0);
    }
    assert!(met.len() > 1, "all sessions are at {met:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed_at_the_backend() {
    let Some(curl) = Curl::new() else { return };
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = curl.setting.proxy().upstream("web", &[&a]).start().await;
    for (count, way) in (1..).zip(Way::ALL) {
        let mut command = curl.command(&proxy, way, "/", &[]);
        let mut child = command.stdout(Stdio::null()).kill_on_drop(true).spawn().expect("curl");
        crate::harness::eventually("the request is there", async || a.requests() == count).await;
        child.kill().await.expect("the end of curl");
        crate::harness::eventually(format!("{way:?}: the backend is let go"), async || {
            a.abandoned() == count
        })
        .await;
    }
}

/// curl must not be told that a broken body is a whole one.
#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_to_the_client() {
    let Some(curl) = Curl::new() else { return };
    let a = Backend::named("a").die_mid_body(1000).start().await;
    let proxy = curl.setting.proxy().upstream("web", &[&a]).start().await;
    for way in Way::ALL {
        let status =
            curl.command(&proxy, way, "/", &["--output", "/dev/null"]).stderr(Stdio::null()).status();
        let code = status.await.expect("curl").code();
        // 18 partial file, 92 stream error, 56 receive error.
        assert!(matches!(code, Some(18 | 92 | 56)), "{way:?}: {code:?}");
    }
}
