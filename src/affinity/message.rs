//! How affinity reads messages. The codec implements these traits.

/// A request as affinity reads it.
pub trait RequestView {
    /// Returns the path and query as received (origin form, not decoded).
    fn path_and_query(&self) -> &str;
    /// Returns the values of every header line with this name (lower case), in order.
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]>;
}

/// A response as affinity reads it.
pub trait ResponseView {
    /// Returns the values of every header line with this name (lower case), in order.
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]>;
}

/// Trims spaces and tabs at both ends (OWS of RFC 9110 §5.6.3).
pub(crate) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}
