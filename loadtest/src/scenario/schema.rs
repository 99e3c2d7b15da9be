//! The JSON schema of scenario files, for editors that complete and check TOML by one.

use super::file::File;

/// The schema, as pretty JSON.
pub fn schema() -> String {
    let schema = schemars::schema_for!(File);
    serde_json::to_string_pretty(&schema).expect("a schema is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_knows_every_table_and_their_documentation() {
        let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
        let tables = &schema["properties"];
        for table in ["target", "traffic", "connections", "arrival", "timing", "generator"] {
            assert!(tables[table].is_object(), "{table}");
        }
        let text = schema.to_string();
        assert!(text.contains("Unanswered messages") || text.contains("unanswered messages"));
        assert_eq!(schema["additionalProperties"], false);
    }
}
