//! What holds for every octet of a text, asked of eight at a time: most fields are too short for the compiler's vectors.

/// No CR, LF or NUL is in it: it can't end the line it is written into.
#[inline]
pub fn stays_in_line(text: &[u8]) -> bool {
    !any(text, |word| is(word, b'\r') | is(word, b'\n') | is(word, 0))
}

/// Printable ASCII alone, without the `"` and `\` that quoting needs.
#[inline]
pub fn quotes_itself(text: &[u8]) -> bool {
    !any(text, |word| below(word, b' ') | word | is(word, 0x7f) | is(word, b'"') | is(word, b'\\'))
}

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = LOW << 7;
/// What stands where a text has no octet: nothing asks for it.
const FILL: u8 = b'x';

/// True if `test` sets the highest bit of an octet in some word. Words may overlap.
#[inline]
fn any(text: &[u8], test: impl Fn(u64) -> u64) -> bool {
    let found = match (text.first_chunk::<4>(), text.last_chunk::<4>(), text.last_chunk::<8>()) {
        (_, _, Some(last)) => {
            let (words, _) = text.as_chunks::<8>();
            let found = words.iter().fold(0, |found, word| found | test(u64::from_le_bytes(*word)));
            found | test(u64::from_le_bytes(*last))
        }
        (Some(first), Some(last), None) => {
            test(u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32)
        }
        _ => {
            let [a, b, c] = [0, 1, 2].map(|at| text.get(at).copied().unwrap_or(FILL));
            test(u64::from_le_bytes([a, b, c, FILL, FILL, FILL, FILL, FILL]))
        }
    };
    found & HIGH != 0
}

/// The highest bit of octets that equal `octet`; of others only above such a one.
#[inline(always)]
fn is(word: u64, octet: u8) -> u64 {
    below(word ^ (LOW * u64::from(octet)), 1)
}

/// The highest bit of octets below `bound`, 128 at most; of others only above such a one.
#[inline(always)]
fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(LOW * u64::from(bound)) & !word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_octet_decides_wherever_it_lies() {
        for len in 0..40_usize {
            assert!(stays_in_line(&vec![b'a'; len]) && quotes_itself(&vec![b'a'; len]));
            for at in 0..len {
                for octet in 0..=255_u8 {
                    for around in [b' ', b'~', b'!', b'0'] {
                        let mut text = vec![around; len];
                        text[at] = octet;
                        let safe = !matches!(octet, b'\r' | b'\n' | 0);
                        assert_eq!(stays_in_line(&text), safe, "{text:?}");
                        let plain = matches!(octet, b' '..=b'~') && !matches!(octet, b'"' | b'\\');
                        assert_eq!(quotes_itself(&text), plain, "{text:?}");
                    }
                }
            }
        }
    }
}
