//! Status classes.

/// The number of response classes: 1xx to 5xx.
pub(crate) const CLASSES: usize = 5;

/// The classes as metric labels, by index.
pub(crate) const CLASS_WORDS: [&str; CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Returns the index of a status's class.
pub(crate) fn class_of(status: u16) -> usize {
    usize::from(status / 100).clamp(1, CLASSES) - 1
}
