//! JSON as links need it: strings written with escapes, and the whole numbers of a small object
//! read by name. The reader checks the whole text and allocates nothing.

use super::error::LinkError;

/// Objects and arrays inside each other.
const DEPTH_MAX: usize = 16;

/// Appends a JSON string.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.extend(
                    [byte >> 4, byte & 0xF].map(|nibble| b"0123456789abcdef"[usize::from(nibble)]),
                );
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Hands every non-negative whole number (below 2⁶⁴) of the object `text` to `field`, with the name
/// of the member and, one level deeper, of the member around it. Members that occur twice are
/// handed over twice; names are compared as written.
pub(super) fn read_numbers<'t>(
    text: &'t [u8],
    mut field: impl FnMut(Option<&'t [u8]>, &'t [u8], u64),
) -> Result<(), LinkError> {
    if std::str::from_utf8(text).is_err() {
        return Err(LinkError::BadBody);
    }
    let mut reader = Reader { text, at: 0, field: &mut field };
    reader.space();
    reader.object(Scope::Top, 0)?;
    reader.space();
    if reader.at == text.len() { Ok(()) } else { Err(LinkError::BadBody) }
}

/// Where an object stands.
#[derive(Clone, Copy)]
enum Scope<'t> {
    Top,
    Under(&'t [u8]),
    Elsewhere,
}

struct Reader<'t, 'f> {
    text: &'t [u8],
    at: usize,
    field: &'f mut dyn FnMut(Option<&'t [u8]>, &'t [u8], u64),
}

impl<'t> Reader<'t, '_> {
    fn object(&mut self, scope: Scope<'t>, depth: usize) -> Result<(), LinkError> {
        self.expect(b'{')?;
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.expect(b':')?;
            let inner =
                if matches!(scope, Scope::Top) { Scope::Under(name) } else { Scope::Elsewhere };
            if let Some(number) = self.value(inner, depth)? {
                match scope {
                    Scope::Top => (self.field)(None, name, number),
                    Scope::Under(parent) => (self.field)(Some(parent), name, number),
                    Scope::Elsewhere => {}
                }
            }
            if !self.take(b',') {
                return self.expect(b'}');
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), LinkError> {
        self.expect(b'[')?;
        self.space();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value(Scope::Elsewhere, depth)?;
            if !self.take(b',') {
                return self.expect(b']');
            }
        }
    }

    /// Any value with the space around it; its number if it is one of those handed over.
    fn value(&mut self, scope: Scope<'t>, depth: usize) -> Result<Option<u64>, LinkError> {
        if depth == DEPTH_MAX {
            return Err(LinkError::BadBody);
        }
        self.space();
        let mut number = None;
        match self.peek() {
            Some(b'{') => self.object(scope, depth + 1)?,
            Some(b'[') => self.array(depth + 1)?,
            Some(b'"') => {
                self.string()?;
            }
            Some(b't') => self.word(b"true")?,
            Some(b'f') => self.word(b"false")?,
            Some(b'n') => self.word(b"null")?,
            _ => number = self.number()?,
        }
        self.space();
        Ok(number)
    }

    /// The text between the quotes, escapes as written.
    fn string(&mut self) -> Result<&'t [u8], LinkError> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.next()? {
                b'"' => return Ok(&self.text[start..self.at - 1]),
                b'\\' => self.escape()?,
                0..0x20 => return Err(LinkError::BadBody),
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Result<(), LinkError> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                for _ in 0..4 {
                    if !self.next()?.is_ascii_hexdigit() {
                        return Err(LinkError::BadBody);
                    }
                }
                Ok(())
            }
            _ => Err(LinkError::BadBody),
        }
    }

    fn number(&mut self) -> Result<Option<u64>, LinkError> {
        let negative = self.take(b'-');
        let start = self.at;
        self.digits()?;
        let digits = &self.text[start..self.at];
        if digits.len() > 1 && digits.starts_with(b"0") {
            return Err(LinkError::BadBody);
        }
        let mut whole = !negative;
        if self.take(b'.') {
            whole = false;
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            whole = false;
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let value = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        Ok(value.filter(|_| whole))
    }

    fn digits(&mut self) -> Result<(), LinkError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(LinkError::BadBody) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), LinkError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(LinkError::BadBody);
        }
        self.at += word.len();
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, LinkError> {
        let byte = self.peek().ok_or(LinkError::BadBody)?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn expect(&mut self, byte: u8) -> Result<(), LinkError> {
        if self.take(byte) { Ok(()) } else { Err(LinkError::BadBody) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn numbers(text: &str) -> Result<Vec<(Option<String>, String, u64)>, LinkError> {
        let mut seen = Vec::new();
        let owned = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
        read_numbers(text.as_bytes(), |parent, name, value| {
            seen.push((parent.map(owned), owned(name), value));
        })?;
        Ok(seen)
    }

    #[test]
    fn numbers_are_found_on_two_levels_and_nowhere_else() {
        let text = r#" {"a":1, "b":{"c":2,"d":{"e":3}},"f":[4,{"g":5}],"h":-6,"i":7.0,"j":8e0,
            "k":"9","l":18446744073709551615,"m":18446744073709551616} "#;
        let seen = numbers(text).unwrap();
        let expected = [(None, "a", 1), (Some("b"), "c", 2), (None, "l", u64::MAX)];
        let expected = expected.map(|(p, n, v)| (p.map(str::to_owned), n.to_owned(), v));
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(17), "]".repeat(17));
        let bad = [
            "",
            "[]",
            "1",
            "{",
            "{}x",
            "{a:1}",
            "{\"a\":01}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{\"a\":+1}",
            "{\"a\":tru}",
            "{\"\\x\":1}",
            "{\"\\u12g4\":1}",
            "{\"a\n\":1}",
            "{\"a\":.5}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"a\":[1,]}",
            "{\"a\":-}",
            &deep,
        ];
        for text in bad {
            assert_eq!(numbers(text), Err(LinkError::BadBody), "{text}");
        }
        assert_eq!(read_numbers(b"{\"\xff\":1}", |_, _, _| {}), Err(LinkError::BadBody));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9f64).prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-d]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::from(serde_json::Map::from_iter(map))),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_reader_agrees_with_an_independent_parser(
            value in value(), cut in any::<prop::sample::Index>(), byte in prop::option::of(any::<u8>()),
        ) {
            let mut text = serde_json::to_vec(&value).unwrap();
            if let Some(byte) = byte {
                let at = cut.index(text.len());
                text[at] = byte;
            }
            let mut seen = 0u32;
            let ours = read_numbers(&text, |_, _, _| seen += 1);
            match serde_json::from_slice::<Value>(&text) {
                Ok(Value::Object(map)) => {
                    prop_assert_eq!(ours, Ok(()));
                    let top = map.values().filter(|v| v.is_u64()).count();
                    prop_assert!(seen as usize >= top);
                }
                // Lone surrogates and numbers beyond a float are an object's form all the same.
                _ if text.contains(&b'\\') || text.contains(&b'e') || text.contains(&b'E') => {}
                _ => prop_assert_eq!(ours, Err(LinkError::BadBody)),
            }
        }

        #[test]
        fn strings_are_escaped_so_that_they_read_back(text in ".*", control in "[\\x00-\\x1f\"\\\\]*") {
            for text in [text, control] {
                let mut out = Vec::new();
                write_string(&mut out, &text);
                prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            }
        }
    }
}
