//! Lowers `remember` with `table` and `cookie`.

use super::address::host_name;
use super::exposure::warn_if_exposed;
use super::global::is_token;
use crate::affinity::cookie::{CookieConfig, SameSite, SecureAttribute};
use crate::config::diagnostics::Complaint;
use crate::config::files::Files;
use crate::config::reader::Section;
use crate::config::schema::{self, Entry, Free, Key, LayerWords, Rule};
use crate::model::{Remember, TableConfig};
use crate::secret::SecretKey;

/// What default cookie names start with; the upstream's name follows. Not `__Host-`: browsers reject
/// that prefix on plain HTTP, and sessions would silently move.
const DEFAULT_NAME: &str = "homing-";
/// The default name in earlier versions.
const FORMER_DEFAULT_NAME: &str = "homing";

/// Lowers the memory of bindings of the upstream `name`.
pub(super) fn remember(section: &Section<'_>, words: LayerWords, name: &str, files: &Files<'_>) -> Remember {
    let of = |wanted: bool, key, word| {
        if wanted { section.section(key) } else { without_effect(section, key, word) }
    };
    let table = of(words.table, &schema::TABLE, "table");
    let cookie = of(words.cookie, &schema::COOKIE, "cookie");
    Remember {
        table: words.table.then(|| table.map_or_else(default_table, |section| self::table(&section, files))),
        cookie: words.cookie.then(|| self::cookie(section, cookie.as_ref(), name, files)),
        cookie_first: words.cookie_first,
    }
}

/// Reports settings of a kind of memory that is not selected.
fn without_effect<'t>(section: &Section<'t>, key: &'static Free, word: &str) -> Option<Section<'t>> {
    let span = section.key_span(key)?;
    let mut complaint = Complaint::error(format!("`{word}` requires `remember = \"{word}\"`")).at(span, "");
    if let Some(other) = section.span_of(&schema::REMEMBER) {
        complaint = complaint.also(other, "");
    }
    section.complain(complaint.help(format!("set remember = \"{word}\", or remove `{word}`")));
    // Open it anyway, to report all errors at once.
    section.section(key)
}

/// Returns the default table settings.
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

fn cookie(
    affinity: &Section<'_>,
    section: Option<&Section<'_>>,
    upstream: &str,
    files: &Files<'_>,
) -> CookieConfig {
    let get = Getter(section);
    let mut cookie = CookieConfig {
        name: String::new(),
        early_name: String::new(),
        former_name: Some(FORMER_DEFAULT_NAME.to_owned()),
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
    cookie.rename(format!("{DEFAULT_NAME}{upstream}"));
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
            Complaint::warning("cookie without `keys_file`: its key is lost on restart, and sessions move")
                .at(place.unwrap_or_else(|| affinity.span()), "")
                .help("create a key file with `openssl rand -hex 32` and set `keys_file` to its path"),
        );
    }
    cookie
}

/// Reads keys of a table that may be missing.
struct Getter<'a, 't>(Option<&'a Section<'t>>);

impl Getter<'_, '_> {
    fn or_default<R: Rule>(&self, key: &'static Key<R>) -> R::Value {
        self.0.map_or_else(|| key.default.clone(), |section| section.get(key))
    }
}

fn keys(section: &Section<'_>, path: &str, files: &Files<'_>) -> Vec<SecretKey> {
    warn_if_exposed(section, files, &schema::KEYS_FILE, path);
    files.keys(path).unwrap_or_else(|why| {
        let span = section.span_of(&schema::KEYS_FILE).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::error(format!("cannot load `keys_file`: {why}"))
                .at(span, "")
                .help("create a key with `openssl rand -hex 32`; the file has one key per line"),
        );
        Vec::new()
    })
}

fn name(section: &Section<'_>, cookie: &mut CookieConfig) {
    let Some(name) = section.get_optional(&schema::COOKIE_NAME) else { return };
    let span = section.span_of(&schema::COOKIE_NAME).unwrap_or_else(|| section.span());
    if !is_token(&name) || name.len() > 128 {
        section.complain(
            Complaint::error("invalid cookie name")
                .at(span, "")
                .help("use up to 128 letters, digits, `-` and `_`"),
        );
        return;
    }
    let prefix =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let host = prefix("__Host-");
    if (host || prefix("__Secure-")) && cookie.secure != SecureAttribute::Always {
        section.complain(
            Complaint::error(format!("browsers reject the cookie \"{name}\" without Secure"))
                .at(span.clone(), "")
                .help("set secure = \"always\", or use another name"),
        );
    }
    if host {
        for (key, given) in [(&schema::COOKIE_PATH, "path"), (&schema::DOMAIN, "domain")] {
            let Some(found) = section.find(key) else { continue };
            if found.value.as_str() != Some("/") {
                section.complain(
                    Complaint::error(format!(
                        "browsers reject the cookie \"{name}\" with a custom `{given}`"
                    ))
                    .at(found.span(), "")
                    .also(span.clone(), "")
                    .help(format!("remove `{given}`, or use another name")),
                );
            }
        }
    }
    cookie.rename(name);
    cookie.former_name = None;
}

/// Lowers `path` and `domain`.
fn scope(section: &Section<'_>, cookie: &mut CookieConfig) {
    let place = |key: &dyn Entry| section.span_of(key).unwrap_or_else(|| section.span());
    if let Some(path) = section.get_optional(&schema::COOKIE_PATH) {
        if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b';') {
            cookie.path = path;
        } else {
            section.complain(
                Complaint::error("invalid cookie path")
                    .at(place(&schema::COOKIE_PATH), "")
                    .help("paths must start with `/` and contain no spaces or `;`"),
            );
        }
    }
    if let Some(domain) = section.get_optional(&schema::DOMAIN) {
        match host_name(domain.strip_prefix('.').unwrap_or(&domain)) {
            Ok(name) => cookie.domain = Some(name),
            Err(why) => section.complain(
                Complaint::error(format!("invalid cookie domain: {why}")).at(place(&schema::DOMAIN), ""),
            ),
        }
    }
}

/// Reports combinations of attributes that browsers reject.
fn attributes(section: &Section<'_>, cookie: &CookieConfig) {
    let always = cookie.secure == SecureAttribute::Always;
    let needs_secure = |key: &'static dyn Entry, what: &str| {
        let span = section.span_of(key).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::error(format!("browsers reject a cookie with {what} but without Secure"))
                .at(span, "")
                .help("set secure = \"always\""),
        );
    };
    if cookie.same_site == SameSite::None && !always {
        needs_secure(&schema::SAME_SITE, "`same_site = \"none\"`");
    }
    if cookie.partitioned && !always {
        needs_secure(&schema::PARTITIONED, "`partitioned = true`");
    }
    let is_longer = cookie.max_age.is_some_and(|max_age| cookie.max_idle > max_age);
    if let (true, Some(span)) = (is_longer, section.span_of(&schema::MAX_IDLE)) {
        section.complain(Complaint::warning("`max_idle` is longer than `max_age`").at(span, "has no effect"));
    }
}
