//! A value in the file, with its key and location.

use toml::de::{DeArray, DeValue};

use super::diagnostics::{Complaint, Span};

/// The value of a key.
#[derive(Clone)]
pub(super) struct Found<'t> {
    /// The key's name.
    pub(super) name: &'static str,
    /// The value.
    pub(super) value: &'t DeValue<'t>,
    pub(super) span: Span,
}

impl<'t> Found<'t> {
    /// Returns the location of the value.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Returns the error for a value of the wrong type. `expected` has its article.
    pub(super) fn wrong_type(&self, expected: &str) -> Complaint {
        Complaint::error(format!("expected {expected} for `{}`, found {}", self.name, kind(self.value)))
            .at(self.span(), "")
    }

    /// Returns the error for a value outside of `bounds`, such as `1 to 10`.
    pub(super) fn out_of_range(&self, bounds: &str) -> Complaint {
        Complaint::error(format!("`{}` is out of range", self.name))
            .at(self.span(), format!("must be {bounds}"))
    }

    /// Returns the integer, of any size.
    pub(super) fn integer(&self) -> Result<i128, Complaint> {
        match self.value {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).map_err(|_| {
                Complaint::error(format!("`{}` is out of range", self.name)).at(self.span(), "")
            }),
            DeValue::String(text) if text.parse::<i64>().is_ok() => {
                Err(self.wrong_type("an integer").help(format!("remove the quotes: {text}")))
            }
            _ => Err(self.wrong_type("an integer")),
        }
    }

    /// Returns the string. `expected` describes it in the error.
    pub(super) fn text(&self, expected: &str) -> Result<&'t str, Complaint> {
        self.value.as_str().ok_or_else(|| self.wrong_type(expected))
    }

    /// Returns the elements of an array, with their locations.
    pub(super) fn list(&self, expected: &str) -> Result<Vec<Self>, Complaint> {
        match self.value {
            DeValue::Array(list) => Ok(self.elements(list)),
            DeValue::String(text) => {
                Err(self.wrong_type(expected).help(format!("use {} = [\"{text}\"]", self.name)))
            }
            _ => Err(self.wrong_type(expected)),
        }
    }

    /// Returns the elements of `list`, with their locations.
    pub(super) fn elements(&self, list: &'t DeArray<'t>) -> Vec<Self> {
        list.iter()
            .map(|element| Self { name: self.name, value: element.get_ref(), span: element.span() })
            .collect()
    }
}

/// The type of a value, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(true) => "`true`",
        DeValue::Boolean(false) => "`false`",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
