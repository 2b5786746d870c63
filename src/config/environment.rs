//! Finds `${NAME}` in values. Homing does not read environment variables in the file.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Complaint, Sink};

/// Reports every value with a `${NAME}`, instead of the errors that follow from it.
pub(super) fn refuse_variables(table: &DeTable<'_>, sink: &mut Sink) {
    for value in table.values() {
        look(value, sink);
    }
}

fn look(value: &Spanned<DeValue<'_>>, sink: &mut Sink) {
    match value.get_ref() {
        DeValue::String(text) => {
            if let Some(variable) = variable(text) {
                let complaint = Complaint::error(format!("`{variable}` is not replaced by its value"))
                    .at(value.span(), "")
                    .help(
                        "Homing does not read environment variables in this file; write the value, or make the \
                         file from a template, for example with envsubst",
                    );
                sink.replace_at(value.span(), complaint);
            }
        }
        DeValue::Array(list) => list.iter().for_each(|element| look(element, sink)),
        DeValue::Table(table) => refuse_variables(table, sink),
        _ => {}
    }
}

/// Returns the first `${NAME}` of a text.
fn variable(text: &str) -> Option<&str> {
    let start = text.find("${")?;
    let end = start + text[start..].find('}')?;
    // As in a shell: `${NAME}`, `${NAME:-default}`.
    let name = text[start + 2..end].split(':').next().unwrap_or_default();
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (!name.is_empty() && name.bytes().all(valid)).then(|| &text[start..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_anywhere_in_a_text() {
        assert_eq!(variable("${HOST}"), Some("${HOST}"));
        assert_eq!(variable("http://${HOST:-a}:80"), Some("${HOST:-a}"));
        for text in ["", "$HOST", "${", "${}", "${a b}", "{x}", "$5}"] {
            assert_eq!(variable(text), None, "{text}");
        }
    }
}
