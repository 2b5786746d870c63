//! The members that earlier attempts of a request have tried.

/// The members that earlier attempts of this request have tried without success.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    pub(super) members: Vec<u16>,
    /// Those that refused a connection.
    pub(super) refused: Vec<u16>,
}

impl Tried {
    /// Marks member `index` as tried.
    pub fn insert(&mut self, index: u16) {
        self.members.push(index);
    }

    /// Marks member `index` as tried. It refused a connection: nothing listens at its address.
    pub fn insert_refused(&mut self, index: u16) {
        self.insert(index);
        self.refused.push(index);
    }

    /// Returns true if member `index` was tried.
    pub fn contains(&self, index: u16) -> bool {
        self.members.contains(&index)
    }

    /// Returns true if member `index` refused a connection.
    pub fn has_refused(&self, index: u16) -> bool {
        self.refused.contains(&index)
    }

    /// Returns true if no member was tried.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}
