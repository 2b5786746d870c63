//! The types of keys. Each parses and validates a value.

use std::fmt;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::diagnostics::Complaint;
use crate::config::found::Found;
use crate::config::suggest::nearest;
use crate::config::units::{parse_duration, parse_size, show_duration, show_size};

/// A type of value.
pub(in crate::config) trait Rule: Sync {
    /// The parsed value.
    type Value: Clone + Sync;
    /// Parses and validates a value.
    fn read(&self, found: &Found<'_>) -> Result<Self::Value, Complaint>;
    /// Describes the type.
    fn shape(&self) -> String;
    /// Formats a value as TOML.
    fn show(&self, value: &Self::Value) -> String;
}

/// `true` or `false`.
pub(in crate::config) struct Flag;

impl Rule for Flag {
    type Value = bool;

    fn read(&self, found: &Found<'_>) -> Result<bool, Complaint> {
        match found.value {
            DeValue::Boolean(flag) => Ok(*flag),
            DeValue::String(word) if word == "true" || word == "false" => {
                Err(found.wrong_type("`true` or `false`").help(format!("remove the quotes: {word}")))
            }
            _ => Err(found.wrong_type("`true` or `false`")),
        }
    }

    fn shape(&self) -> String {
        "true or false".to_owned()
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }
}

/// A duration within bounds.
pub(in crate::config) struct Time {
    /// The minimum.
    pub(in crate::config) least: Duration,
    /// The maximum.
    pub(in crate::config) most: Duration,
}

impl Rule for Time {
    type Value = Duration;

    fn read(&self, found: &Found<'_>) -> Result<Duration, Complaint> {
        let name = found.name;
        let text = match found.value {
            DeValue::String(text) => text,
            DeValue::Integer(number) => {
                let help = format!("add a unit (ms, s, m, h or d): {name} = \"{number}s\"");
                return Err(found.wrong_type("a duration").help(help));
            }
            _ => return Err(found.wrong_type("a duration such as \"2s\"")),
        };
        let duration = parse_duration(text).map_err(|unreadable| {
            let help = match unreadable.instead {
                Some(instead) => format!("use \"{instead}\""),
                None => {
                    "expected an integer and a unit: \"250ms\", \"2s\", \"5m\", \"1h\", \"7d\"".to_owned()
                }
            };
            Complaint::error(format!("invalid duration for `{name}`")).at(found.span(), "").help(help)
        })?;
        if (self.least..=self.most).contains(&duration) {
            Ok(duration)
        } else {
            Err(found.out_of_range(&self.bounds()))
        }
    }

    fn shape(&self) -> String {
        format!("duration, {}", self.bounds())
    }

    fn show(&self, value: &Duration) -> String {
        format!("\"{}\"", show_duration(*value))
    }
}

impl Time {
    fn bounds(&self) -> String {
        format!("{} to {}", show_duration(self.least), show_duration(self.most))
    }
}

/// A size in bytes within bounds.
pub(in crate::config) struct Size {
    /// The minimum.
    pub(in crate::config) least: u64,
    /// The maximum.
    pub(in crate::config) most: u64,
}

impl Rule for Size {
    type Value = u64;

    fn read(&self, found: &Found<'_>) -> Result<u64, Complaint> {
        let name = found.name;
        let bytes = match found.value {
            DeValue::String(text) => parse_size(text).map_err(|unreadable| {
                let help = match unreadable.instead {
                    Some(instead) => format!("use \"{instead}\""),
                    None => "expected an integer and a unit: \"512B\", \"16KiB\", \"1MiB\"".to_owned(),
                };
                Complaint::error(format!("invalid size for `{name}`")).at(found.span(), "").help(help)
            })?,
            DeValue::Integer(_) => found.integer()?.try_into().unwrap_or(u64::MAX),
            _ => return Err(found.wrong_type("a size such as \"16KiB\"")),
        };
        let negative = found.integer().is_ok_and(|n| n < 0);
        if (self.least..=self.most).contains(&bytes) && !negative {
            Ok(bytes)
        } else {
            Err(found.out_of_range(&self.bounds()))
        }
    }

    fn shape(&self) -> String {
        format!("size, {}", self.bounds())
    }

    fn show(&self, value: &u64) -> String {
        format!("\"{}\"", show_size(*value))
    }
}

impl Size {
    fn bounds(&self) -> String {
        format!("{} to {}", show_size(self.least), show_size(self.most))
    }
}

/// Another type, or `"off"`.
pub(in crate::config) struct OrOff<R>(pub(in crate::config) R);

impl<R: Rule> Rule for OrOff<R> {
    type Value = Option<R::Value>;

    fn read(&self, found: &Found<'_>) -> Result<Self::Value, Complaint> {
        match found.value {
            DeValue::String(word) if word == "off" => Ok(None),
            DeValue::Boolean(false) => {
                Err(found.wrong_type("a number or \"off\"").help(format!("use {} = \"off\"", found.name)))
            }
            _ => self.0.read(found).map(Some),
        }
    }

    fn shape(&self) -> String {
        format!("{}, or \"off\"", self.0.shape())
    }

    fn show(&self, value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| "\"off\"".to_owned(), |value| self.0.show(value))
    }
}

/// An integer within bounds.
pub(in crate::config) struct Int<T> {
    /// The minimum.
    pub(in crate::config) least: T,
    /// The maximum.
    pub(in crate::config) most: T,
}

impl<T> Rule for Int<T>
where
    T: Copy + Ord + fmt::Display + TryFrom<i128> + Sync,
{
    type Value = T;

    fn read(&self, found: &Found<'_>) -> Result<T, Complaint> {
        let number = found.integer()?;
        T::try_from(number)
            .ok()
            .filter(|number| (self.least..=self.most).contains(number))
            .ok_or_else(|| found.out_of_range(&format!("{} to {}", self.least, self.most)))
    }

    fn shape(&self) -> String {
        format!("integer, {} to {}", self.least, self.most)
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }
}

/// File permission bits, in octal.
pub(in crate::config) struct Mode;

impl Rule for Mode {
    type Value = u32;

    fn read(&self, found: &Found<'_>) -> Result<u32, Complaint> {
        let help = "use three octal digits, for owner, group and others: \"0660\"";
        let text = match found.value {
            // TOML writes octal as `0o660`; a plain `660` would be decimal.
            DeValue::Integer(_) => return Err(found.wrong_type("a string").help(help)),
            _ => found.text("permission bits such as \"0660\"")?,
        };
        let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
        let octal = digits.len() == 3 && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(digits, 8).ok().filter(|_| octal);
        mode.ok_or_else(|| {
            let message = format!("invalid permission bits for `{}`", found.name);
            Complaint::error(message).at(found.span(), "").help(help)
        })
    }

    fn shape(&self) -> String {
        "octal permission bits".to_owned()
    }

    fn show(&self, value: &u32) -> String {
        format!("\"0{value:03o}\"")
    }
}

/// One of a list of words.
pub(in crate::config) struct Word<T: 'static>(pub(in crate::config) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq + Sync> Rule for Word<T> {
    type Value = T;

    fn read(&self, found: &Found<'_>) -> Result<T, Complaint> {
        let DeValue::String(word) = found.value else {
            return Err(found.wrong_type(&format!("one of {}", self.shape())));
        };
        self.parse(word, found.name).map_err(|complaint| complaint.or_at(found.span()))
    }

    fn shape(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        words.join(", ")
    }

    fn show(&self, value: &T) -> String {
        let word = self.0.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word);
        format!("\"{word}\"")
    }
}

impl<T: Copy> Word<T> {
    /// Parses `word`, a value of the key `name`.
    pub(in crate::config) fn parse(&self, word: &str, name: &str) -> Result<T, Complaint> {
        if let Some((_, value)) = self.0.iter().find(|(known, _)| *known == word) {
            return Ok(*value);
        }
        let words = || self.0.iter().map(|(known, _)| *known);
        let complaint = Complaint::error(format!("unknown value \"{word}\" for `{name}`"));
        Err(if let Some(known) = nearest(word, words()) {
            complaint.help(format!("did you mean \"{known}\"?"))
        } else {
            let known: Vec<_> = words().map(|known| format!("\"{known}\"")).collect();
            complaint.help(format!("possible values: {}", known.join(", ")))
        })
    }
}

/// A string that is not empty and has no control characters.
pub(in crate::config) struct Text(pub(in crate::config) &'static str);

impl Rule for Text {
    type Value = String;

    fn read(&self, found: &Found<'_>) -> Result<String, Complaint> {
        match found.value {
            DeValue::String(text) if text.is_empty() => {
                Err(Complaint::error(format!("`{}` is empty", found.name)).at(found.span(), ""))
            }
            DeValue::String(text) if text.chars().any(char::is_control) => {
                Err(Complaint::error(format!("`{}` contains a control character", found.name))
                    .at(found.span(), ""))
            }
            DeValue::String(text) => Ok(text.clone().into_owned()),
            _ => Err(found.wrong_type("a string")),
        }
    }

    fn shape(&self) -> String {
        self.0.to_owned()
    }

    fn show(&self, value: &String) -> String {
        format!("\"{value}\"")
    }
}
