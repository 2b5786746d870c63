//! How far a request may still go: Max-Forwards, and loops (RFC 9110 §7.6.2, §7.6.3).

use std::sync::LazyLock;

use crate::h1::{FieldKind, RequestHead};

/// How often a request may pass this process. A proxy in front of a cache that is in front of the
/// same proxy is no loop.
const MAX_PASSES: usize = 4;

/// The id of this process in Via.
static INSTANCE: LazyLock<String> = LazyLock::new(|| format!("{:016x}", fastrand::u64(..)));

/// Returns the id of this process in Via.
pub(crate) fn instance() -> &'static str {
    &INSTANCE
}

/// Returns true if the request has passed this process too often.
pub(crate) fn is_loop(head: &RequestHead<'_>) -> bool {
    if !head.has_via {
        return false;
    }
    let lines = head.fields.iter().filter(|field| field.kind == FieldKind::Via);
    let finder = memchr::memmem::Finder::new(instance().as_bytes());
    lines.map(|field| finder.find_iter(field.value).count()).sum::<usize>() >= MAX_PASSES
}

/// Returns the number of hops that a request may still take. Only OPTIONS and TRACE are counted.
pub(crate) fn left(head: &RequestHead<'_>) -> Option<u32> {
    if !matches!(head.method, "OPTIONS" | "TRACE") {
        return None;
    }
    let field = head.fields.first(FieldKind::MaxForwards)?;
    let digits = !field.value.is_empty() && field.value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(field.value).ok().filter(|_| digits)?;
    // A number that is too large for an integer is larger than any chain of proxies.
    Some(number.parse().unwrap_or(u32::MAX))
}
