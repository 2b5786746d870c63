//! The members that earlier attempts of a request have tried.

/// The members that earlier attempts of this request have tried without success.
#[derive(Debug, Clone, Default)]
pub struct Tried(pub(super) Vec<u16>);

impl Tried {
    /// Marks member `index` as tried.
    pub fn insert(&mut self, index: u16) {
        self.0.push(index);
    }

    /// Returns true if member `index` was tried.
    pub fn contains(&self, index: u16) -> bool {
        self.0.contains(&index)
    }

    /// Returns true if no member was tried.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
