//! Authentication of connections: NTLM and its kin.

use super::bytes::{is_ows, trim_ows};

/// The schemes that authenticate a connection, and with it every later request on it, instead of a
/// request (RFC 4559 §6).
const SCHEMES: &[&[u8]] = &[b"NTLM", b"Negotiate", b"Nego2", b"Kerberos", b"CredSSP"];

/// Returns true if credentials or challenges (the value of Authorization, WWW-Authenticate and the
/// like) have one of these schemes. A comma in a quoted string may look like the start of one; the
/// connection is then kept for one client without need.
pub(super) fn is_of_connection(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|element| {
        let element = trim_ows(element);
        let scheme = element.split(|&byte| is_ows(byte)).next().unwrap_or(element);
        SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_that_authenticate_a_connection_are_found_in_lists_and_in_any_case() {
        for value in
            ["NTLM", "ntlm TlRMTVNTUAAB", "Negotiate", "Basic realm=\"a, b\",\tNegotiate YII", "x,CredSSP"]
        {
            assert!(is_of_connection(value.as_bytes()), "{value}");
        }
        for value in ["", "Basic dXNlcjpwYXNz", "Bearer NTLM", "Digest username=\"NTLM\"", "NTLMv2 x"] {
            assert!(!is_of_connection(value.as_bytes()), "{value}");
        }
    }
}
