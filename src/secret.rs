//! Secret keys and the key file: keys for cookies and TLS tickets.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// A secret key of 32 bytes; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(pub [u8; 32]);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

/// Why a key file is invalid. Errors name the line, never its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// A line that is not a key.
    #[error("invalid key on line {line}: expected 64 hexadecimal digits or base64 of 32 bytes")]
    NotAKey {
        /// The line number, from 1.
        line: usize,
    },
    /// A repeated key. The second one would never be used, which is hardly intended when rotating
    /// keys.
    #[error("line {line} repeats the key of line {first}")]
    Repeated {
        /// The line number, from 1.
        line: usize,
        /// The line of the first occurrence.
        first: usize,
    },
    /// A file without keys.
    #[error("the file contains no key")]
    Empty,
}

/// Parses a key file: one key per line; the first seals, all open. A key is 64 hexadecimal digits
/// or base64 (either alphabet, with or without padding) of 32 bytes. Empty lines and lines that
/// begin with `#` are ignored.
///
/// To rotate, put the new key first and keep the old ones for `max_idle`.
pub fn parse_keys(text: &str) -> Result<Vec<SecretKey>, KeyFileError> {
    let mut keys: Vec<(usize, SecretKey)> = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let key = parse_key(content).ok_or(KeyFileError::NotAKey { line })?;
        if let Some((first, _)) = keys.iter().find(|(_, known)| *known == key) {
            return Err(KeyFileError::Repeated { line, first: *first });
        }
        keys.push((line, key));
    }
    if keys.is_empty() {
        return Err(KeyFileError::Empty);
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

fn parse_key(text: &str) -> Option<SecretKey> {
    let bytes = if text.len() == 64 {
        parse_hex(text.as_bytes())?
    } else {
        [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
            .iter()
            .find_map(|engine| engine.decode(text).ok())?
    };
    Some(SecretKey(bytes.try_into().ok()?))
}

fn parse_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
    const BASE64: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

    fn ascending() -> SecretKey {
        SecretKey(std::array::from_fn(|n| u8::try_from(n).unwrap()))
    }

    fn descending() -> SecretKey {
        SecretKey(std::array::from_fn(|n| 255 - u8::try_from(n).unwrap()))
    }

    #[test]
    fn keys_are_hex_or_base64_one_per_line() {
        let text = format!("# rotated in May\n\n  {HEX}\r\n{BASE64}\n");
        assert_eq!(parse_keys(&text), Ok(vec![ascending(), descending()]));
        let url_safe = BASE64.replace('/', "_").replace('+', "-");
        for text in [BASE64.trim_end_matches('='), &url_safe, url_safe.trim_end_matches('=')] {
            assert_eq!(parse_keys(text), Ok(vec![descending()]));
        }
    }

    #[test]
    fn errors_name_the_line_but_not_its_contents() {
        let long = format!("{HEX}00");
        let not_hex = HEX.replace('a', "g");
        for bad in ["secret", &HEX[..62], &long, &not_hex, "AAAA", &format!("{HEX} # comment")] {
            let error = parse_keys(&format!("# x\n{BASE64}\n{bad}\n")).unwrap_err();
            assert_eq!(error, KeyFileError::NotAKey { line: 3 });
            assert!(!error.to_string().contains(bad));
        }
        let twice = format!("{HEX}\n#\n{}", HEX.to_lowercase());
        assert_eq!(parse_keys(&twice), Err(KeyFileError::Repeated { line: 3, first: 1 }));
    }

    #[test]
    fn file_without_a_key_is_an_error() {
        assert_eq!(parse_keys(""), Err(KeyFileError::Empty));
        assert_eq!(parse_keys("# none\n \n"), Err(KeyFileError::Empty));
    }
}
