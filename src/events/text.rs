//! A text in JSON that is read, not kept.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Without its escapes; borrowed if it had none, which a bare `Cow` would not be.
#[derive(Deserialize, Serialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
