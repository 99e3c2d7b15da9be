//! The configuration as it was written: for every key its value and the layer that set it, for
//! operators to look at.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::problem::Origin;
use super::shape::Raw;

/// JSON: an object of keys, each with `value` and `from`. Secrets are not in it.
#[derive(Debug, Clone, Default)]
pub struct Shown(Arc<str>);

/// What a configuration says is all that makes it equal to another; who said it does not count.
impl PartialEq for Shown {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Shown {}

impl Shown {
    pub(super) fn new(keys: &BTreeMap<String, Written>) -> Self {
        let of = |written: &Written| json!({ "value": written.value, "from": written.from });
        let all: BTreeMap<_, _> = keys.iter().map(|(path, written)| (path, of(written))).collect();
        Self(json!(all).to_string().into())
    }

    #[must_use]
    pub fn json(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// One key.
#[derive(Debug)]
pub(super) struct Written {
    value: Value,
    from: String,
}

impl Written {
    pub(super) fn new(raw: Raw<'_>, origin: &Origin, is_secret: bool) -> Self {
        let is_empty = raw.words().is_some_and(str::is_empty);
        let value = if is_secret && !is_empty { HIDDEN.into() } else { raw.json() };
        let from = match origin {
            Origin::Default => "default".to_owned(),
            Origin::File(_) => "file".to_owned(),
            Origin::Variable(name) => format!("variable {name}"),
            Origin::Flag => "flag".to_owned(),
        };
        Self { value, from }
    }
}

const HIDDEN: &str = "(secret)";
