//! `affinity`: the key, the ring and the policy.

use toml::de::DeValue;

use super::global::{is_token, list_of};
use super::remember::{self, remember};
use crate::affinity::Seed;
use crate::affinity::key::KeySource;
use crate::affinity::pick::Failover;
use crate::config::diagnostics::Complaint;
use crate::config::files::Files;
use crate::config::reader::{Found, Section};
use crate::config::schema::{self, RememberWord};
use crate::config::suggest::nearest;
use crate::model::{Affinity, Remember};

/// More places to look than this are a mistake.
const MAX_SOURCES: usize = 16;
/// The kinds of key sources; all but the first take a name.
const KINDS: [&str; 6] = ["ip", "client_cert", "cookie", "header", "query", "path_param"];

/// How sessions are tied to backends, from a word, a table, or nothing.
pub(super) fn affinity(upstream: &Section<'_>, files: &Files<'_>) -> Affinity {
    let Some(found) = upstream.find(&schema::AFFINITY) else { return hash_ip() };
    match found.value {
        DeValue::Table(table) => match upstream.open_below(&schema::AFFINITY, table) {
            Some(section) => full(&section, files),
            None => hash_ip(),
        },
        DeValue::String(word) => upstream.take(short(word, &found)).unwrap_or_else(hash_ip),
        DeValue::Boolean(false) => {
            upstream.complain(found.wrong_type("a word or a table").help("write affinity = \"none\""));
            hash_ip()
        }
        _ => {
            upstream.complain(found.wrong_type("\"hash_ip\", \"none\" or a table"));
            hash_ip()
        }
    }
}

fn short(word: &str, found: &Found<'_>) -> Result<Affinity, Complaint> {
    match word {
        "hash_ip" => Ok(hash_ip()),
        "none" => Ok(balanced()),
        _ => {
            let complaint = Complaint::error(format!("`affinity` does not know the word \"{word}\""))
                .at(found.span(), "");
            let help = if key_source(word, found).is_ok() {
                format!("write affinity = {{ key = [\"{word}\"] }}")
            } else if let Some(near) = nearest(word, ["hash_ip", "none"]) {
                format!("did you mean \"{near}\"?")
            } else {
                "it takes \"hash_ip\", \"none\" or a table such as { key = [\"cookie:SID\", \"ip\"] }"
                    .to_owned()
            };
            Err(complaint.help(help))
        }
    }
}

fn hash_ip() -> Affinity {
    Affinity {
        key: vec![KeySource::Ip],
        remember: Remember::Table(remember::default_table()),
        failover: Failover::Sticky,
        hold: schema::HOLD.default,
        announce: schema::ANNOUNCE.default,
        report: schema::REPORT.default,
        vnodes: schema::VNODES.default,
        balance_percent: None,
        seed: Seed::default(),
    }
}

fn balanced() -> Affinity {
    Affinity { key: Vec::new(), remember: Remember::None, failover: Failover::Temporary, ..hash_ip() }
}

fn full(section: &Section<'_>, files: &Files<'_>) -> Affinity {
    let key = key(section);
    let word = remembered(section, &key);
    let remember = remember(section, word, files);
    let mut affinity = Affinity {
        failover: failover(section, word),
        hold: section.get(&schema::HOLD),
        announce: section.get(&schema::ANNOUNCE),
        report: section.get(&schema::REPORT),
        key,
        remember,
        ..hash_ip()
    };
    if let Some(ring) = section.section(&schema::RING) {
        affinity.vnodes = ring.get(&schema::VNODES);
        affinity.balance_percent =
            ring.find(&schema::BALANCE_FACTOR).and_then(|found| ring.take(factor(&found)));
        affinity.seed = seed(&ring, files);
    }
    if affinity.key.is_empty() && affinity.remember == Remember::None && !affinity.hold.is_zero() {
        let span = section.span_of(&schema::HOLD).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::warning("`hold` has no effect: without a key no request waits for a backend")
                .at(span, ""),
        );
    }
    affinity
}

/// `remember`; with an empty key there is nothing to look up in a table, but
/// a cookie can be set all the same.
fn remembered(section: &Section<'_>, key: &[KeySource]) -> RememberWord {
    let word = section.get(&schema::REMEMBER);
    let empty_list = section
        .find(&schema::KEY)
        .filter(|found| key.is_empty() && found.value.as_array().is_some_and(|list| list.is_empty()));
    let (Some(found), RememberWord::Table) = (empty_list, word) else { return word };
    if let Some(span) = section.span_of(&schema::REMEMBER) {
        section.complain(
            Complaint::error("without a key there is nothing to look up in a table")
                .at(found.span(), "no key")
                .also(span, "")
                .help("name a key, such as key = [\"ip\"], or write remember = \"cookie\" or \"none\""),
        );
    }
    RememberWord::None
}

fn failover(section: &Section<'_>, word: RememberWord) -> Failover {
    let written = section.get_optional(&schema::FAILOVER);
    if word != RememberWord::None {
        return written.unwrap_or(Failover::Sticky);
    }
    if written == Some(Failover::Sticky) {
        let span = section.span_of(&schema::FAILOVER).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::error("`failover = \"sticky\"` cannot be kept with `remember = \"none\"`")
                .at(span, "nothing remembers where the session went")
                .help("write remember = \"table\" or \"cookie\", or failover = \"temporary\""),
        );
    }
    written.unwrap_or(Failover::Temporary)
}

fn key(section: &Section<'_>) -> Vec<KeySource> {
    let Some(list) = list_of(section, &schema::KEY, "a list of sources") else { return vec![KeySource::Ip] };
    let mut key = Vec::new();
    for found in &list {
        let Some(source) = section.take(found.text("sources").and_then(|text| key_source(text, found)))
        else {
            continue;
        };
        if key.contains(&source) {
            section.complain(Complaint::error("this source is named twice").at(found.span(), ""));
            continue;
        }
        if key.contains(&KeySource::Ip) {
            section.complain(
                Complaint::error("a source after \"ip\" is never reached: every request has an address")
                    .at(found.span(), "")
                    .help("put \"ip\" last"),
            );
        }
        key.push(source);
    }
    if let Some(found) = list.get(MAX_SOURCES) {
        section.complain(
            Complaint::error(format!("there are more than {MAX_SOURCES} sources")).at(found.span(), ""),
        );
    }
    key
}

/// One source of a key.
fn key_source(text: &str, found: &Found<'_>) -> Result<KeySource, Complaint> {
    let refused =
        |message: String, help: &str| Err(Complaint::error(message).at(found.span(), "").help(help));
    if text == "ip" {
        return Ok(KeySource::Ip);
    }
    if text == "client_cert" {
        return Ok(KeySource::ClientCert);
    }
    let Some((kind, name)) = text.split_once(':') else {
        if KINDS.contains(&text) {
            let help = format!("write \"{text}:NAME\"");
            return refused(format!("\"{text}\" does not say which {text}"), &help);
        }
        let help = match nearest(text, KINDS) {
            Some(alone @ ("ip" | "client_cert")) => format!("did you mean \"{alone}\"?"),
            Some(near) => format!("did you mean \"{near}:NAME\"?"),
            None => format!(
                "a source is \"ip\", \"client_cert\", \"cookie:NAME\", \"header:NAME\", \"query:NAME\" or \
                 \"path_param:NAME\"; for the cookie of that name: \"cookie:{text}\""
            ),
        };
        return refused(format!("\"{text}\" is no source of a key"), &help);
    };
    let bad_name = |what: &str| {
        refused(
            format!("\"{name}\" cannot be the name of a {what}"),
            "write the name as the application does",
        )
    };
    let plain = !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_graphic());
    let without = |forbidden: &[u8]| plain && !name.bytes().any(|b| forbidden.contains(&b));
    match kind {
        "cookie" if plain && is_token(name) => Ok(KeySource::Cookie(name.to_owned())),
        "cookie" => bad_name("cookie"),
        "header" if name.eq_ignore_ascii_case("cookie") => {
            let help = "name one cookie: \"cookie:NAME\"";
            refused("all cookies together are no session's id".to_owned(), help)
        }
        "header" if plain && is_token(name) => Ok(KeySource::Header(name.to_ascii_lowercase())),
        "header" => bad_name("header"),
        "query" if without(b"&=#?") => Ok(KeySource::Query(name.to_owned())),
        "query" => bad_name("query parameter"),
        "path_param" if without(b";=/?#") => Ok(KeySource::PathParam(name.to_owned())),
        "path_param" => bad_name("path parameter"),
        "ip" | "client_cert" => refused(format!("\"{kind}\" takes no name"), &format!("write \"{kind}\"")),
        _ => {
            let help = match nearest(kind, KINDS) {
                Some(alone @ ("ip" | "client_cert")) => format!("did you mean \"{alone}\"?"),
                Some(near) => format!("did you mean \"{near}:{name}\"?"),
                None => "the kinds are ip, client_cert, cookie, header, query and path_param".to_owned(),
            };
            refused(format!("there is no source of the kind \"{kind}\""), &help)
        }
    }
}

/// Bounded load, in per cent of the mean.
fn factor(found: &Found<'_>) -> Result<u32, Complaint> {
    let factor = match found.value {
        DeValue::Float(number) => number.as_str().parse::<f64>().unwrap_or(f64::NAN),
        DeValue::Integer(_) => f64::from(i32::try_from(found.integer()?).unwrap_or(i32::MAX)),
        _ => return Err(found.wrong_type("a number such as 1.25")),
    };
    // Whole per cents from 101 to 1000: exact in both types.
    let percent = (factor * 100.0).round();
    if (101.0..=1000.0).contains(&percent) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "101 to 1000")]
        return Ok(percent as u32);
    }
    let complaint = found.out_of_range("1.01 to 10");
    Err(if percent <= 100.0 {
        complaint.help("it is a multiple of the mean: with 1 or less no session would find a place")
    } else {
        complaint
    })
}

fn seed(ring: &Section<'_>, files: &Files<'_>) -> Seed {
    let Some(path) = ring.get_optional(&schema::SEED_FILE) else { return Seed::default() };
    files.seed(&path).unwrap_or_else(|why| {
        let span = ring.span_of(&schema::SEED_FILE).unwrap_or_else(|| ring.span());
        ring.complain(
            Complaint::error(format!("`seed_file` cannot be used: {why}"))
                .at(span, "")
                .help("it holds a secret in one line, the same on every proxy: `openssl rand -hex 16`"),
        );
        Seed::default()
    })
}
