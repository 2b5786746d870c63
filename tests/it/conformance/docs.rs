//! The page that is printed from the tables.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::http2_cases::{self, Answer};
use super::responses::{Said, Told};
use super::{Case, Outcome, bodies, framing, hops, http2_frames, lines, responses, targets};

const BEGIN: &str =
    "<!-- begin: printed from the tests, `UPDATE_DOCS=1 cargo test --test it conformance` -->\n";
const END: &str = "<!-- end -->";

/// More of the bytes than this is not shown.
const SHOWN: usize = 110;

fn tables() -> String {
    let mut text = "\n## HTTP/1.1\n".to_owned();
    requests(&mut text, "Requests: framing", &framing::cases());
    requests(&mut text, "Requests: chunks", &bodies::chunks());
    requests(&mut text, "Requests: lines and fields", &lines::cases());
    requests(&mut text, "Requests: targets, hosts and sizes", &targets::cases());
    requests(&mut text, "Requests: Connection and Upgrade", &hops::cases());
    from_backends(&mut text, "Responses", &responses::all());
    text.push_str("\n## HTTP/2\n");
    frames(&mut text, "Heads", &http2_cases::heads());
    frames(&mut text, "Bodies and trailers", &http2_cases::bodies());
    frames(&mut text, "Frames", &http2_frames::connection());
    frames(&mut text, "Floods", &http2_frames::floods());
    text
}

fn frames(text: &mut String, title: &str, cases: &[http2_cases::Case]) {
    let _ = writeln!(text, "\n### {title}\n\n| what | RFC | sent | answer |\n|---|---|---|---|");
    for http2_cases::Case { class, rfc, shown: sent, answer, .. } in cases {
        let answer = match answer {
            Answer::Reset(code) => format!("RST_STREAM {}", code.name()),
            Answer::GoAway(code) => format!("GOAWAY {}", code.name()),
            Answer::Status(status) => format!("{status}"),
            Answer::Passed => "passed on".to_owned(),
            Answer::PassedWithoutIt => "passed on without it (the frames' crate hides it)".to_owned(),
        };
        let sent: Vec<u8> = sent.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
        let _ = writeln!(text, "| {class} | {rfc} | {} | {answer} |", shown(&sent));
    }
}

fn requests(text: &mut String, title: &str, cases: &[Case]) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n### {title}\n\n| what | RFC | bytes | answer |\n|---|---|---|---|");
    for Case { class, rfc, bytes, outcome } in cases {
        let answer = match outcome {
            Outcome::Refused(status, code) => format!("{status} `{code}`, closed"),
            Outcome::Passed { line, host, without: [] } => format!("passed on: `{line}`, Host `{host}`"),
            Outcome::Passed { without, .. } => format!("passed on without {}", without.join(", ")),
        };
        let _ = writeln!(text, "| {class} | {rfc} | {} | {answer} |", shown(bytes));
    }
}

fn from_backends(text: &mut String, title: &str, all: &[Said]) {
    let _ = writeln!(text, "\n### {title}\n\n| what | RFC | bytes | the client gets |\n|---|---|---|---|");
    let mut before = "";
    for Said { class, rfc, method, bytes, told, .. } in all {
        // The same with another ending.
        if *class == before {
            continue;
        }
        before = class;
        let answer = match told {
            Told::BadGateway(code) => format!("502 `{code}`"),
            Told::Passed(status, "") => format!("{status} without a body"),
            Told::Passed(status, body) => format!("{status}, `{body}`"),
            Told::BrokenOff => {
                "what came, broken off; 502 if it is known before the head has gone".to_owned()
            }
        };
        let asked = if *method == "GET" { String::new() } else { format!(" ({method})") };
        let _ = writeln!(text, "| {class}{asked} | {rfc} | {} | {answer} |", shown(bytes));
    }
}

fn shown(bytes: &[u8]) -> String {
    let whole = bytes.escape_ascii().to_string().replace("\\\"", "\"").replace('|', "\\|");
    match whole.char_indices().nth(SHOWN) {
        _ if whole.is_empty() => "—".to_owned(),
        Some((end, _)) => format!("`{}`…", &whole[..end]),
        None => format!("`{whole}`"),
    }
}

#[test]
fn the_page_is_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let text = fs::read_to_string(&path).expect("docs/conformance.md");
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the tables");
    let (printed, after) = rest.split_once(END).expect("the end of the tables");
    let tables = format!("{}\n", tables());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{tables}{END}{after}")).expect("write docs/conformance.md");
        return;
    }
    assert!(
        printed == tables,
        "docs/conformance.md is out of date: UPDATE_DOCS=1 cargo test --test it conformance"
    );
}
