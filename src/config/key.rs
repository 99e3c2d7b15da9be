//! What a configuration key is, and the macro that makes one table of keys serve as typed struct,
//! parser, documentation and reload rule. The tables themselves are in `tables` and `rows`.

use super::shape::Shape;

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// On SIGHUP, for open connections too.
    Live,
    /// Only with a new process; a reload that changes it is refused by name.
    Restart,
}

impl Reload {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Restart => "restart",
        }
    }
}

/// How often a table may stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurs {
    /// `[name]`; every key has a default and a variable.
    Once,
    /// `[[name]]`, or an inline table of an array; only in the file.
    Each,
}

/// One key of one table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// The protocol's variable, where the key is one of the protocol's.
    pub protocol_variable: Option<&'static str>,
    /// A TOML literal; empty when every row must set the key.
    pub default: &'static str,
    /// A TOML literal for the defaults file: the default, or what a row might say.
    pub example: &'static str,
    /// Lines, each with the blank that a doc comment leaves in front.
    pub doc: &'static str,
    pub reload: Reload,
    /// What a value looks like, in words.
    pub expects: fn() -> String,
}

impl Key {
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.default.is_empty()
    }
}

/// All keys of one table.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    pub name: &'static str,
    pub occurs: Occurs,
    pub doc: &'static str,
    pub keys: &'static [Key],
}

impl Table {
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The environment variable that sets `key`; none for keys of rows.
    #[must_use]
    pub fn variable(&self, key: &Key) -> Option<String> {
        match (self.occurs, key.protocol_variable) {
            (Occurs::Each, _) => None,
            (Occurs::Once, Some(name)) => Some(name.to_owned()),
            (Occurs::Once, None) => {
                let path = format!("CORELANE_{}_{}", self.name.replace('.', "_"), key.name);
                Some(path.to_ascii_uppercase())
            }
        }
    }

    /// `table.key`, as errors and `--set` spell it.
    #[must_use]
    pub fn path(&self, key: &Key) -> String {
        format!("{}.{}", self.name, key.name)
    }
}

/// The text of [`Key::expects`] for a shape.
pub(super) fn expects(shape: &impl Shape) -> String {
    shape.expects()
}

/// Declares one table: `field: Type = "TOML default", Reload [, "PROTOCOL_VARIABLE"] => shape;`,
/// or `= required "TOML example"`.
/// The doc comments become the comments of `corelane config defaults`.
macro_rules! table {
    (
        $(#[doc = $table_doc:literal])*
        [$table:literal] $occurs:ident $Section:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $type:ty = $($default:literal)? $(required $example:literal)?,
                    $reload:ident $(, $variable:literal)?
                    => $shape:expr;
            )*
        }
    ) => {
        $(#[doc = $table_doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $Section {
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl $Section {
            pub const TABLE: $crate::config::key::Table = $crate::config::key::Table {
                name: $table,
                occurs: $crate::config::key::Occurs::$occurs,
                doc: concat!($($table_doc, "\n"),*),
                keys: &[$(
                    $crate::config::key::Key {
                        name: stringify!($field),
                        protocol_variable: $crate::config::key::table!(@variable $($variable)?),
                        default: concat!($($default)?),
                        example: concat!($($default)? $($example)?),
                        doc: concat!($($doc, "\n"),*),
                        reload: $crate::config::key::Reload::$reload,
                        expects: || $crate::config::key::expects(&$shape),
                    },
                )*],
            };

            /// All keys are read before the first missing one ends it, so that every problem of
            /// the table is reported at once. `None` only when a problem was reported.
            pub(in crate::config) fn read(
                reader: &mut $crate::config::reader::Reader<'_>,
                nested: &[&str],
            ) -> Option<Self> {
                $( let $field = reader.key(&Self::TABLE, stringify!($field), &$shape); )*
                reader.refuse_others(&Self::TABLE, nested);
                Some(Self { $( $field: $field?, )* })
            }
        }

        impl $crate::config::key::Section for $Section {
            fn restart_changes(&self, other: &Self, found: &mut Vec<String>) {
                $(
                    if $crate::config::key::Reload::$reload == $crate::config::key::Reload::Restart
                        && self.$field != other.$field
                    {
                        found.push(format!("{}.{}", $table, stringify!($field)));
                    }
                )*
            }
        }
    };
    (@variable) => { None };
    (@variable $variable:literal) => { Some($variable) };
}
pub(super) use table;

/// What the reload asks of every table.
pub(super) trait Section {
    /// Appends the paths of keys that differ and cannot change in a running process.
    fn restart_changes(&self, other: &Self, found: &mut Vec<String>);
}
