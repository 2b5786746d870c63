//! Searches for the end of a head, eight bytes at a time.
//!
//! This runs for heads that arrive in parts or are invalid. It reads every byte once, however the
//! bytes arrive: `at` is where the next call continues. Errors are found at the first invalid byte,
//! so that junk gets an answer instead of a timeout.

use super::HeadError;
use super::bytes::is_token;

/// Returns the end of the head (just after the empty line) within `head`, if it is there. The
/// message starts at `lead`; nothing before `*at` is read again.
pub(super) fn find_end(head: &[u8], lead: usize, at: &mut usize) -> Result<Option<usize>, HeadError> {
    let mut pos = (*at).max(lead);
    while let Some(control) = next_control(head, pos) {
        match &head[control..] {
            [b'\t', ..] => pos = control + 1,
            [b'\n', ..] => return Err(HeadError::BareLf),
            [b'\r', b'\n', ..] if control == lead => return Err(HeadError::RequestLine),
            [b'\r', b'\n', ..] if head[control - 1] == b'\n' => return Ok(Some(control + 2)),
            [b'\r', b'\n', next, ..] => {
                starts_line(*next)?;
                pos = control + 2;
            }
            // The meaning depends on the next byte: look at it again then.
            [b'\r'] | [b'\r', b'\n'] => {
                *at = control;
                return Ok(None);
            }
            [b'\r', ..] => return Err(HeadError::BareCr),
            _ => return Err(HeadError::Control),
        }
    }
    *at = head.len().max(pos);
    Ok(None)
}

/// Checks whether a field line, or the empty line, may start with this byte.
fn starts_line(byte: u8) -> Result<(), HeadError> {
    match byte {
        b'\r' => Ok(()),
        b'\n' => Err(HeadError::BareLf),
        b' ' | b'\t' => Err(HeadError::Folded),
        0..=0x1f | 0x7f => Err(HeadError::Control),
        _ if is_token(byte) => Ok(()),
        _ => Err(HeadError::FieldName),
    }
}

/// Returns the position of the first control character at or after `pos`.
fn next_control(bytes: &[u8], mut pos: usize) -> Option<usize> {
    let rest = bytes.get(pos..)?;
    let mut words = rest.chunks_exact(8);
    for word in &mut words {
        let found = controls(word);
        if found != 0 {
            return Some(pos + found.trailing_zeros() as usize / 8);
        }
        pos += 8;
    }
    words.remainder().iter().position(u8::is_ascii_control).map(|offset| pos + offset)
}

/// Sets the high bit of every control character in a word of eight bytes.
fn controls(word: &[u8]) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES * 0x80;
    let Ok(word) = word.try_into().map(u64::from_le_bytes) else { return 0 };
    // No sum carries into the next byte: 0x7f + 0x7f < 0x100.
    let low = word & !HIGH;
    let at_least_space = low + ONES * 0x60;
    let not_delete = (low ^ (ONES * 0x7f)) + ONES * 0x7f;
    !(word | (at_least_space & not_delete)) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_found_at_every_position() {
        for byte in 0..=u8::MAX {
            for (at, fill) in (0..24).flat_map(|at| [(at, b' '), (at, b'~'), (at, 0x80), (at, 0xff)]) {
                let mut bytes = [fill; 24];
                bytes[at] = byte;
                let expected = byte.is_ascii_control().then_some(at);
                assert_eq!(next_control(&bytes, 0), expected, "{byte:#x} at {at}");
                assert_eq!(next_control(&bytes, at), expected, "{byte:#x} at {at}");
                assert_eq!(next_control(&bytes, at + 1), None);
            }
        }
    }
}
