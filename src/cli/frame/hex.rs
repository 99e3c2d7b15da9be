//! Hexadecimal as people paste it: bare digits, with separators, or a dump.

use super::FrameError;

/// The bytes that `text` shows. Blanks, line ends, `:`, `-`, `,`, `\x` and `0x` between bytes are
/// skipped, and so are the offsets and the text columns of dumps by `xxd`, `hexdump -C`, `tcpdump -X`.
pub(super) fn parse_hex(text: &str) -> Result<Vec<u8>, FrameError> {
    let digits: String = text.lines().flat_map(|line| digits_of(line).chars()).collect();
    let digits = digits.replace("0x", "").replace("\\x", "");
    let skipped = |c: &char| !c.is_whitespace() && !matches!(c, ':' | '-' | ',');
    let digits: Option<Vec<u8>> = digits
        .chars()
        .filter(skipped)
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let (pairs, odd) = digits.as_deref().ok_or(FrameError::NotHex)?.as_chunks::<2>();
    if pairs.is_empty() || !odd.is_empty() {
        return Err(FrameError::NotHex);
    }
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// The part of a line that shows bytes.
fn digits_of(line: &str) -> &str {
    let line = line.trim();
    // `hexdump -C`: an offset, two blanks, bytes, text between bars; the last line is an offset.
    if let Some((bytes, _)) = line.split_once('|') {
        return bytes.split_once("  ").map_or(bytes, |(_, bytes)| bytes);
    }
    // `xxd`, `tcpdump -X`: an offset and a colon, bytes, two blanks, text.
    if let Some((offset, rest)) = line.split_once(':')
        && is_offset(offset.strip_prefix("0x").unwrap_or(offset))
        && rest.starts_with(' ')
    {
        let bytes = rest.trim_start();
        return bytes.split_once("  ").map_or(bytes, |(bytes, _)| bytes);
    }
    line
}

fn is_offset(text: &str) -> bool {
    (4..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as three programs dump it.
    const XXD: &str = "00000000: 4000 0300 0000 0701 2345 6789 abcd ef00  @.......#Eg.....\n\
                       00000010: 2268 6922                                \"hi\"\n";
    const HEXDUMP: &str = "00000000  40 00 03 00 00 00 07 01  23 45 67 89 ab cd ef 00  |@.......#Eg.....|\n\
         00000010  22 68 69 22                                       |\"hi\"|\n";
    const TCPDUMP: &str = "\t0x0000:  4000 0300 0000 0701 2345 6789 abcd ef00  @.......#Eg.....\n\
                           \t0x0010:  2268 6922                                \"hi\"\n";
    const BARE: &str = "4000030000000701 23456789abcdef00 22686922";

    #[test]
    fn dumps_show_the_bytes_that_they_were_made_of() {
        let bytes = parse_hex(BARE).unwrap();
        assert_eq!(bytes.len(), 20);
        for dump in [XXD, HEXDUMP, TCPDUMP] {
            assert_eq!(parse_hex(dump), Ok(bytes.clone()), "{dump}");
        }
    }

    #[test]
    fn separators_of_all_kinds_are_skipped() {
        for text in [
            "40414243",
            "40 41\n42\t43\r\n",
            "40:41:42:43",
            "0x40, 0x41, 0x42, 0x43",
            r"\x40\x41\x42\x43",
            "4041-4243",
            "40:41-42, 43\n",
        ] {
            assert_eq!(parse_hex(text).as_deref(), Ok(&b"@ABC"[..]), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_hexadecimal_is_refused() {
        for text in ["", "4", "zz", "4 0 1", "|40|", "é"] {
            assert_eq!(parse_hex(text), Err(FrameError::NotHex), "{text:?}");
        }
    }
}
