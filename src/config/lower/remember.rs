//! `table` and `cookie`: where bindings are kept.

use super::address::host_name;
use super::global::is_token;
use crate::affinity::cookie::{CookieConfig, SameSite, SecureAttribute};
use crate::config::diagnostics::Complaint;
use crate::config::files::Files;
use crate::config::reader::Section;
use crate::config::schema::{self, Entry, Free, Key, RememberWord, Rule};
use crate::model::{Remember, TableConfig};
use crate::secret::SecretKey;

/// The cookie's name where the file gives none. Not `__Host-`: browsers
/// refuse that on plain HTTP, and sessions would move without a word.
const DEFAULT_NAME: &str = "homing";

/// Where bindings are kept.
pub(super) fn remember(section: &Section<'_>, word: RememberWord, files: &Files<'_>) -> Remember {
    let table = match word {
        RememberWord::Table => section.section(&schema::TABLE),
        _ => without_effect(section, &schema::TABLE, "table"),
    };
    let cookie = match word {
        RememberWord::Cookie => section.section(&schema::COOKIE),
        _ => without_effect(section, &schema::COOKIE, "cookie"),
    };
    match word {
        RememberWord::None => Remember::None,
        RememberWord::Table => {
            Remember::Table(table.map_or_else(default_table, |section| self::table(&section, files)))
        }
        RememberWord::Cookie => Remember::Cookie(self::cookie(section, cookie.as_ref(), files)),
    }
}

/// Refuses a block for a kind of memory that is not chosen.
fn without_effect<'t>(section: &Section<'t>, key: &'static Free, word: &str) -> Option<Section<'t>> {
    let span = section.key_span(key)?;
    let mut complaint =
        Complaint::error(format!("`{word}` has no effect without `remember = \"{word}\"`")).at(span, "");
    if let Some(other) = section.span_of(&schema::REMEMBER) {
        complaint = complaint.also(other, "");
    }
    section.complain(complaint.help(format!("write remember = \"{word}\", or leave out `{word}`")));
    // Opened all the same, so that what is wrong in it is said at once.
    section.section(key)
}

/// The table where the file says nothing of it.
pub(super) fn default_table() -> TableConfig {
    TableConfig { max_entries: schema::MAX_ENTRIES.default, ttl: schema::TTL.default, file: None }
}

fn table(section: &Section<'_>, files: &Files<'_>) -> TableConfig {
    TableConfig {
        max_entries: section.get(&schema::MAX_ENTRIES),
        ttl: section.get(&schema::TTL),
        file: section.get_optional(&schema::FILE_OF_TABLE).map(|path| files.resolve(&path)),
    }
}

fn cookie(affinity: &Section<'_>, section: Option<&Section<'_>>, files: &Files<'_>) -> CookieConfig {
    let get = Getter(section);
    let mut cookie = CookieConfig {
        name: DEFAULT_NAME.to_owned(),
        keys_file: None,
        keys: Vec::new(),
        max_age: get.or_default(&schema::MAX_AGE),
        max_idle: get.or_default(&schema::MAX_IDLE),
        path: "/".to_owned(),
        domain: None,
        secure: get.or_default(&schema::SECURE),
        same_site: get.or_default(&schema::SAME_SITE),
        http_only: get.or_default(&schema::HTTP_ONLY),
        partitioned: get.or_default(&schema::PARTITIONED),
        on_cacheable: get.or_default(&schema::ON_CACHEABLE),
    };
    if let Some(section) = section {
        name(section, &mut cookie);
        scope(section, &mut cookie);
        attributes(section, &cookie);
        if let Some(path) = section.get_optional(&schema::KEYS_FILE) {
            cookie.keys = keys(section, &path, files);
            cookie.keys_file = Some(files.resolve(&path));
        }
    }
    if section.is_none_or(|section| section.find(&schema::KEYS_FILE).is_none()) {
        let place = section.map(Section::span).or_else(|| affinity.span_of(&schema::REMEMBER));
        affinity.complain(
            Complaint::warning(
                "the cookie has no `keys_file`: its key is lost at a restart, and sessions move",
            )
            .at(place.unwrap_or_else(|| affinity.span()), "")
            .help("write a key to a file (`openssl rand -hex 32`) and cookie = { keys_file = \"…\" }"),
        );
    }
    cookie
}

/// Reads keys of a table that may not be there.
struct Getter<'a, 't>(Option<&'a Section<'t>>);

impl Getter<'_, '_> {
    fn or_default<R: Rule>(&self, key: &'static Key<R>) -> R::Value {
        self.0.map_or_else(|| key.default.clone(), |section| section.get(key))
    }
}

fn keys(section: &Section<'_>, path: &str, files: &Files<'_>) -> Vec<SecretKey> {
    files.keys(path).unwrap_or_else(|why| {
        let span = section.span_of(&schema::KEYS_FILE).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::error(format!("`keys_file` cannot be used: {why}"))
                .at(span, "")
                .help("it holds one key a line, 64 hex digits: `openssl rand -hex 32`"),
        );
        Vec::new()
    })
}

fn name(section: &Section<'_>, cookie: &mut CookieConfig) {
    let Some(name) = section.get_optional(&schema::COOKIE_NAME) else { return };
    let span = section.span_of(&schema::COOKIE_NAME).unwrap_or_else(|| section.span());
    if !is_token(&name) || name.len() > 128 {
        section.complain(
            Complaint::error("`name` is no name of a cookie")
                .at(span, "")
                .help("it takes up to 128 letters, digits, `-` and `_`"),
        );
        return;
    }
    let prefix =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let host = prefix("__Host-");
    if (host || prefix("__Secure-")) && cookie.secure != SecureAttribute::Always {
        section.complain(
            Complaint::error(format!("browsers refuse a cookie \"{name}\" that is not Secure"))
                .at(span.clone(), "")
                .help("write secure = \"always\", or another name"),
        );
    }
    if host {
        for (key, given) in [(&schema::COOKIE_PATH, "path"), (&schema::DOMAIN, "domain")] {
            let Some(found) = section.find(key) else { continue };
            if found.value.as_str() != Some("/") {
                section.complain(
                    Complaint::error(format!(
                        "browsers refuse a cookie \"{name}\" with a `{given}` of its own"
                    ))
                    .at(found.span(), "")
                    .also(span.clone(), "")
                    .help(format!("leave out `{given}`, or write another name")),
                );
            }
        }
    }
    cookie.name = name;
}

/// `path` and `domain`.
fn scope(section: &Section<'_>, cookie: &mut CookieConfig) {
    let place = |key: &dyn Entry| section.span_of(key).unwrap_or_else(|| section.span());
    if let Some(path) = section.get_optional(&schema::COOKIE_PATH) {
        if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b';') {
            cookie.path = path;
        } else {
            section.complain(
                Complaint::error("`path` is no path for a cookie")
                    .at(place(&schema::COOKIE_PATH), "")
                    .help("it begins with `/` and holds no `;` and no spaces"),
            );
        }
    }
    if let Some(domain) = section.get_optional(&schema::DOMAIN) {
        match host_name(domain.strip_prefix('.').unwrap_or(&domain)) {
            Ok(name) => cookie.domain = Some(name),
            Err(why) => section.complain(
                Complaint::error("`domain` is no host name").at(place(&schema::DOMAIN), "").help(why),
            ),
        }
    }
}

/// What browsers refuse together.
fn attributes(section: &Section<'_>, cookie: &CookieConfig) {
    let always = cookie.secure == SecureAttribute::Always;
    let needs_secure = |key: &'static dyn Entry, what: &str| {
        let span = section.span_of(key).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::error(format!("browsers refuse a cookie with {what} that is not Secure"))
                .at(span, "")
                .help("write secure = \"always\""),
        );
    };
    if cookie.same_site == SameSite::None && !always {
        needs_secure(&schema::SAME_SITE, "`same_site = \"none\"`");
    }
    if cookie.partitioned && !always {
        needs_secure(&schema::PARTITIONED, "`partitioned = true`");
    }
    if let (true, Some(span)) = (cookie.max_idle > cookie.max_age, section.span_of(&schema::MAX_IDLE)) {
        section.complain(
            Complaint::warning("`max_idle` is longer than `max_age`, which ends a binding before")
                .at(span, "has no effect"),
        );
    }
}
