//! Lowers `affinity`: the key, the ring and the policy.

use toml::de::DeValue;

use super::exposure::warn_if_exposed;
use super::global::{is_token, list_of};
use super::remember::{self, remember};
use crate::affinity::Seed;
use crate::affinity::key::KeySource;
use crate::affinity::pick::Failover;
use crate::config::diagnostics::Complaint;
use crate::config::files::Files;
use crate::config::found::Found;
use crate::config::reader::Section;
use crate::config::schema::{self, LayerWords};
use crate::config::suggest::nearest;
use crate::model::{Affinity, Remember};

/// Maximum number of key sources. More are a mistake.
const MAX_SOURCES: usize = 16;
/// The kinds of key sources. All but `ip` and `client_cert` take a name.
const KINDS: [&str; 6] = ["ip", "client_cert", "cookie", "header", "query", "path_param"];

/// Lowers `affinity`: a word, a table, or the default.
pub(super) fn affinity(upstream: &Section<'_>, name: &str, files: &Files<'_>) -> Affinity {
    let Some(found) = upstream.find(&schema::AFFINITY) else { return hash_ip() };
    match found.value {
        DeValue::Table(table) => match upstream.open_below(&schema::AFFINITY, table) {
            Some(section) => full(&section, name, files),
            None => hash_ip(),
        },
        DeValue::String(word) => upstream.take(short(word, &found)).unwrap_or_else(hash_ip),
        DeValue::Boolean(false) => {
            let complaint = found.wrong_type("\"hash_ip\", \"none\" or a table");
            upstream.complain(complaint.help("use affinity = \"none\""));
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
            let complaint =
                Complaint::error(format!("unknown value \"{word}\" for `affinity`")).at(found.span(), "");
            let help = if word == "ip_hash" {
                "did you mean \"hash_ip\"?".to_owned()
            } else if key_source(word, found).is_ok() {
                format!("use affinity = {{ key = [\"{word}\"] }}")
            } else if let Some(near) = nearest(word, ["hash_ip", "none"]) {
                format!("did you mean \"{near}\"?")
            } else {
                "use \"hash_ip\", \"none\" or a table such as { key = [\"cookie:SID\", \"ip\"] }".to_owned()
            };
            Err(complaint.help(help))
        }
    }
}

fn hash_ip() -> Affinity {
    Affinity {
        key: vec![KeySource::Ip],
        remember: Remember::in_table(remember::default_table()),
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
    Affinity { key: Vec::new(), remember: Remember::NONE, failover: Failover::Temporary, ..hash_ip() }
}

fn full(section: &Section<'_>, name: &str, files: &Files<'_>) -> Affinity {
    let listed = section.get(&schema::REMEMBER);
    let key = key(section, listed);
    let words = remembered(section, listed, &key);
    let remember = remember(section, words, name, files);
    own_key(section, &key, &remember);
    let mut affinity = Affinity {
        failover: failover(section, words),
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
    if affinity.key.is_empty() && affinity.remember.is_none() && !affinity.hold.is_zero() {
        let span = section.span_of(&schema::HOLD).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::warning("`hold` has no effect: requests without a key never wait for a backend")
                .at(span, ""),
        );
    }
    affinity
}

/// Checks the layers that `remember` lists against the key. Without a key, the table has nothing to
/// look up, but the cookie is the session.
fn remembered(section: &Section<'_>, words: LayerWords, key: &[KeySource]) -> LayerWords {
    let given = section.find(&schema::KEY);
    let invalid =
        given.as_ref().is_some_and(|found| found.value.as_array().is_none_or(|list| !list.is_empty()));
    if !words.table || !key.is_empty() || invalid {
        return words;
    }
    let remember = section.span_of(&schema::REMEMBER);
    if words.cookie {
        section.complain(
            Complaint::warning("the table in `remember` has no effect: requests have no key")
                .at(remember.unwrap_or_else(|| section.span()), "")
                .help("add a key source, such as key = [\"cookie:SID\"], or use remember = \"cookie\""),
        );
        return words;
    }
    if let (Some(found), Some(span)) = (given, remember) {
        section.complain(
            Complaint::error("`remember = \"table\"` requires a key")
                .at(found.span(), "no key sources")
                .also(span, "requires a key")
                .help("add a key source, such as key = [\"ip\"], or use remember = \"cookie\" or \"none\""),
        );
    }
    LayerWords::NONE
}

/// Rejects a sealed cookie with the name of a cookie that is the key: each would replace the other
/// at the client.
fn own_key(section: &Section<'_>, key: &[KeySource], remember: &Remember) {
    let Some(cookie) = &remember.cookie else { return };
    if !key.iter().any(|source| matches!(source, KeySource::Cookie(name) if *name == cookie.name)) {
        return;
    }
    let message = format!("the affinity cookie has the name of the application's cookie \"{}\"", cookie.name);
    let place = section.span_of(&schema::COOKIE).or_else(|| section.span_of(&schema::KEY));
    let mut complaint = Complaint::error(message).at(place.unwrap_or_else(|| section.span()), "");
    if let Some(key) = section.span_of(&schema::KEY) {
        complaint = complaint.also(key, "the key is in this cookie");
    }
    section.complain(
        complaint.help("use another `cookie.name`; the default is derived from the upstream's name"),
    );
}

fn failover(section: &Section<'_>, words: LayerWords) -> Failover {
    let written = section.get_optional(&schema::FAILOVER);
    if words != LayerWords::NONE {
        return written.unwrap_or(Failover::Sticky);
    }
    if written == Some(Failover::Sticky) {
        let span = section.span_of(&schema::FAILOVER).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::error("`failover = \"sticky\"` requires `remember = \"table\"` or `\"cookie\"`")
                .at(span, "nothing remembers where a session moved to")
                .help("use failover = \"temporary\", or change `remember`"),
        );
    }
    written.unwrap_or(Failover::Temporary)
}

/// Lowers `key`. By default it is the address, but not if a cookie can tell clients apart: clients
/// behind one address would all go to one backend.
fn key(section: &Section<'_>, remembered: LayerWords) -> Vec<KeySource> {
    let Some(list) = list_of(section, &schema::KEY, "an array of key sources") else {
        return if remembered.cookie { Vec::new() } else { vec![KeySource::Ip] };
    };
    let mut key = Vec::new();
    for found in &list {
        let Some(source) = section.take(found.text("a key source").and_then(|text| key_source(text, found)))
        else {
            continue;
        };
        if key.contains(&source) {
            section.complain(Complaint::error("duplicate key source").at(found.span(), ""));
            continue;
        }
        if key.contains(&KeySource::Ip) {
            section.complain(
                Complaint::error("key source after \"ip\" is never used: every request has an IP address")
                    .at(found.span(), "")
                    .help("move \"ip\" to the end"),
            );
        }
        key.push(source);
    }
    if let Some(found) = list.get(MAX_SOURCES) {
        section.complain(
            Complaint::error(format!("too many key sources (maximum {MAX_SOURCES})")).at(found.span(), ""),
        );
    }
    key
}

/// Parses a key source.
fn key_source(text: &str, found: &Found<'_>) -> Result<KeySource, Complaint> {
    let invalid =
        |message: String, help: &str| Err(Complaint::error(message).at(found.span(), "").help(help));
    if text == "ip" {
        return Ok(KeySource::Ip);
    }
    if text == "client_cert" {
        return Ok(KeySource::ClientCert);
    }
    let Some((kind, name)) = text.split_once(':') else {
        if KINDS.contains(&text) {
            let help = format!("use \"{text}:NAME\"");
            return invalid(format!("key source \"{text}\" requires a name"), &help);
        }
        let help = match nearest(text, KINDS) {
            Some(alone @ ("ip" | "client_cert")) => format!("did you mean \"{alone}\"?"),
            Some(near) => format!("did you mean \"{near}:NAME\"?"),
            None => format!(
                "use \"ip\", \"client_cert\", \"cookie:NAME\", \"header:NAME\", \"query:NAME\" or \
                 \"path_param:NAME\"; for a cookie of this name, \"cookie:{text}\""
            ),
        };
        return invalid(format!("unknown key source \"{text}\""), &help);
    };
    let bad_name = |what: &str| {
        invalid(format!("invalid {what} name \"{name}\""), "use the name exactly as the application does")
    };
    let plain = !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_graphic());
    let without = |forbidden: &[u8]| plain && !name.bytes().any(|b| forbidden.contains(&b));
    match kind {
        "cookie" if plain && is_token(name) => Ok(KeySource::Cookie(name.to_owned())),
        "cookie" => bad_name("cookie"),
        "header" if name.eq_ignore_ascii_case("cookie") => {
            let help = "use a single cookie: \"cookie:NAME\"";
            invalid("the Cookie header as a whole does not identify a session".to_owned(), help)
        }
        "header" if plain && is_token(name) => Ok(KeySource::Header(name.to_ascii_lowercase())),
        "header" => bad_name("header"),
        "query" if without(b"&=#?") => Ok(KeySource::Query(name.to_owned())),
        "query" => bad_name("query parameter"),
        "path_param" if without(b";=/?#") => Ok(KeySource::PathParam(name.to_owned())),
        "path_param" => bad_name("path parameter"),
        "ip" | "client_cert" => {
            invalid(format!("key source \"{kind}\" takes no name"), &format!("use \"{kind}\""))
        }
        _ => {
            let help = match nearest(kind, KINDS) {
                Some(alone @ ("ip" | "client_cert")) => format!("did you mean \"{alone}\"?"),
                Some(near) => format!("did you mean \"{near}:{name}\"?"),
                None => "use ip, client_cert, cookie, header, query or path_param".to_owned(),
            };
            invalid(format!("unknown key source kind \"{kind}\""), &help)
        }
    }
}

/// Parses `balance_factor`. Returns it in percent.
fn factor(found: &Found<'_>) -> Result<u32, Complaint> {
    let factor = match found.value {
        DeValue::Float(number) => number.as_str().parse::<f64>().unwrap_or(f64::NAN),
        DeValue::Integer(_) => f64::from(i32::try_from(found.integer()?).unwrap_or(i32::MAX)),
        _ => return Err(found.wrong_type("a number such as 1.25")),
    };
    // Integers from 101 to 1000 are exact in both types.
    let percent = (factor * 100.0).round();
    if (101.0..=1000.0).contains(&percent) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "101 to 1000")]
        return Ok(percent as u32);
    }
    let complaint = found.out_of_range("1.01 to 10");
    Err(if percent <= 100.0 {
        complaint
            .help("this is a multiple of the mean load; at 1 or less, no backend could take a new session")
    } else {
        complaint
    })
}

fn seed(ring: &Section<'_>, files: &Files<'_>) -> Seed {
    let Some(path) = ring.get_optional(&schema::SEED_FILE) else { return Seed::default() };
    warn_if_exposed(ring, files, &schema::SEED_FILE, &path);
    files.seed(&path).unwrap_or_else(|why| {
        let span = ring.span_of(&schema::SEED_FILE).unwrap_or_else(|| ring.span());
        ring.complain(
            Complaint::error(format!("cannot load `seed_file`: {why}"))
                .at(span, "")
                .help("create a secret with `openssl rand -hex 16` and use it on every proxy of the fleet"),
        );
        Seed::default()
    })
}
