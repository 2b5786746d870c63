//! How field names are spelled in HTTP/1. HTTP/2 has them in lower case; some embedded servers compare
//! bytes.

/// Writes a field line whose name is in lower case, with the name spelled as people do:
/// `Content-Type`.
pub fn write_spelled_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + ": \r\n".len());
    for (index, word) in name.as_bytes().split(|&byte| byte == b'-').enumerate() {
        if index > 0 {
            out.push(b'-');
        }
        match (known(word), word) {
            (Some(known), _) => out.extend_from_slice(known),
            (None, [first, rest @ ..]) => {
                out.push(first.to_ascii_uppercase());
                out.extend_from_slice(rest);
            }
            (None, []) => {}
        }
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Returns the spelling of a word with more capitals than the first letter.
fn known(word: &[u8]) -> Option<&'static [u8]> {
    Some(match word {
        b"ch" => b"CH",
        b"dnt" => b"DNT",
        b"etag" => b"ETag",
        b"gpc" => b"GPC",
        b"md5" => b"MD5",
        b"sha256" => b"SHA256",
        b"soapaction" => b"SOAPAction",
        b"te" => b"TE",
        b"ua" => b"UA",
        b"websocket" => b"WebSocket",
        b"www" => b"WWW",
        b"xss" => b"XSS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_as_people_spell_them() {
        for name in [
            "Host",
            "Content-Type",
            "ETag",
            "TE",
            "WWW-Authenticate",
            "Sec-WebSocket-Key",
            "X-Request-Id",
            "DNT",
            "Sec-CH-UA-Mobile",
            "X_y",
            "X--Y",
            "-",
            "X-",
        ] {
            let mut out = Vec::new();
            write_spelled_field(&mut out, &name.to_ascii_lowercase(), b"v");
            assert_eq!(String::from_utf8(out).unwrap(), format!("{name}: v\r\n"));
        }
    }
}
