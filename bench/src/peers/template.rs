//! Configurations of the contenders: files with names between two @, which are filled in here.

use thiserror::Error;

/// What goes in for a name.
pub(super) type Value = (&'static str, String);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("the template asks for @{name}@ and nothing is given for it")]
pub(super) struct Unfilled {
    name: String,
}

/// `text` with each @name@ replaced. An @ that begins no name stays as it is.
pub(super) fn fill(text: &str, values: &[Value]) -> Result<String, Unfilled> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('@') {
        filled.push_str(before);
        match after.split_once('@').filter(|(name, _)| is_name(name)) {
            Some((name, behind)) => {
                let value = values.iter().find(|(known, _)| *known == name);
                let (_, value) = value.ok_or_else(|| Unfilled { name: name.to_owned() })?;
                filled.push_str(value);
                rest = behind;
            }
            None => {
                filled.push('@');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_and_other_signs_stay() {
        let values = [("port", "80".to_owned()), ("folder", "/x".to_owned())];
        let text = "listen @port@; # a@b, \"@type\": @folder@/y@";
        assert_eq!(fill(text, &values).unwrap(), "listen 80; # a@b, \"@type\": /x/y@");
    }

    #[test]
    fn a_name_without_a_value_is_an_error() {
        let missing = fill("@backend_port@", &[("port", String::new())]).unwrap_err();
        assert_eq!(missing, Unfilled { name: "backend_port".to_owned() });
    }
}
