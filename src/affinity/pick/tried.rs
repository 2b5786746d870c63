//! What earlier attempts of a request have tried.

/// The backends that earlier attempts of this request have tried in vain.
#[derive(Debug, Clone, Default)]
pub struct Tried(Vec<u16>);

impl Tried {
    /// Marks member `index` as tried.
    pub fn insert(&mut self, index: u16) {
        self.0.push(index);
    }

    /// Was member `index` tried?
    pub fn contains(&self, index: u16) -> bool {
        self.0.contains(&index)
    }

    /// Was none tried?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
