//! The value of `remember`.

use toml::de::DeValue;

use super::{Rule, Word};
use crate::affinity::recall::Layer;
use crate::config::diagnostics::Complaint;
use crate::config::found::Found;

/// The layers of memory: a word or an array.
pub(in crate::config) struct LayerList;

/// The layers that `remember` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct LayerWords {
    pub(in crate::config) table: bool,
    pub(in crate::config) cookie: bool,
    /// Whether the cookie is listed before the table.
    pub(in crate::config) cookie_first: bool,
}

impl LayerWords {
    /// No layer.
    pub(in crate::config) const NONE: Self = Self { table: false, cookie: false, cookie_first: false };

    fn add(&mut self, layer: Layer) -> bool {
        let listed = match layer {
            Layer::Table => &mut self.table,
            Layer::Cookie => &mut self.cookie,
        };
        let is_new = !std::mem::replace(listed, true);
        self.cookie_first |= layer == Layer::Cookie && !self.table;
        is_new
    }
}

const ALONE: Word<Option<Layer>> =
    Word(&[("none", None), ("table", Some(Layer::Table)), ("cookie", Some(Layer::Cookie))]);
const LISTED: Word<Layer> = Word(&[("table", Layer::Table), ("cookie", Layer::Cookie)]);

impl Rule for LayerList {
    type Value = LayerWords;

    fn read(&self, found: &Found<'_>) -> Result<LayerWords, Complaint> {
        let mut words = LayerWords::NONE;
        let DeValue::Array(list) = found.value else {
            if let DeValue::String(word) = found.value {
                if let Some(layer) = ALONE.parse(word, found.name).map_err(|c| c.or_at(found.span()))? {
                    words.add(layer);
                }
                return Ok(words);
            }
            return Err(found.wrong_type(&format!("one of {}", self.shape())));
        };
        let list = found.elements(list);
        if list.is_empty() {
            let complaint = Complaint::error(format!("`{}` is empty", found.name)).at(found.span(), "");
            return Err(complaint.help(format!("use {} = \"none\"", found.name)));
        }
        for element in list {
            if !words.add(LISTED.read(&element)?) {
                return Err(Complaint::error("duplicate layer of memory").at(element.span(), ""));
            }
        }
        Ok(words)
    }

    fn shape(&self) -> String {
        format!("{}, or an array of {}", ALONE.shape(), LISTED.shape())
    }

    fn show(&self, value: &LayerWords) -> String {
        match (value.table, value.cookie, value.cookie_first) {
            (false, false, _) => "\"none\"",
            (true, false, _) => "\"table\"",
            (false, true, _) => "\"cookie\"",
            (true, true, false) => "[\"table\", \"cookie\"]",
            (true, true, true) => "[\"cookie\", \"table\"]",
        }
        .to_owned()
    }
}
