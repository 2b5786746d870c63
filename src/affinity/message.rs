//! What affinity reads of messages. The codec implements these traits.

/// What affinity reads of a request, whichever codec carries it.
pub trait RequestView {
    /// Path and query as received (origin form, undecoded).
    fn path_and_query(&self) -> &str;
    /// Values of every field line of this name (lower case), in order.
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]>;
}

/// What affinity reads of a response, whichever codec carries it.
pub trait ResponseView {
    /// Values of every field line of this name (lower case), in order.
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]>;
}
