//! A head with one target and any number of lines of one field.

use homing::affinity::key::RequestView;
use homing::affinity::learn::ResponseView;

pub struct Message<'a> {
    pub target: &'a str,
    pub name: &'static str,
    pub lines: Vec<&'a [u8]>,
}

impl RequestView for Message<'_> {
    fn path_and_query(&self) -> &str {
        self.target
    }

    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.lines.iter().copied().filter(move |_| name == self.name)
    }
}

impl ResponseView for Message<'_> {
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        RequestView::field_values(self, name)
    }
}
