//! Where two scenarios differ, by the path of each field. What a difference means is for `merge`
//! and `compare` to say.

use serde_json::Value;

use crate::scenario::Scenario;

/// Paths such as `timing.duration`, in order; a list that differs is one path.
pub(crate) fn differing_fields(a: &Scenario, b: &Scenario) -> Vec<String> {
    let mut paths = Vec::new();
    match (serde_json::to_value(a), serde_json::to_value(b)) {
        (Ok(a), Ok(b)) => collect("", &a, &b, &mut paths),
        // A value that JSON cannot hold: what cannot be compared is taken as different.
        _ => paths.push("scenario".to_owned()),
    }
    paths
}

fn collect(path: &str, a: &Value, b: &Value, paths: &mut Vec<String>) {
    let (Value::Object(in_a), Value::Object(in_b)) = (a, b) else {
        if a != b {
            paths.push(path.to_owned());
        }
        return;
    };
    let only_in_b = in_b.keys().filter(|name| !in_a.contains_key(*name));
    for name in in_a.keys().chain(only_in_b) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let (a, b) = (in_a.get(name), in_b.get(name));
        collect(&path, a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null), paths);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::synthetic;
    use crate::scenario::Arrival;

    #[test]
    fn each_differing_field_is_named_by_its_path() {
        let a = synthetic::scenario();
        let mut b = a.clone();
        assert!(differing_fields(&a, &b).is_empty());
        b.timing.duration += Duration::from_secs(1);
        b.generator.cpus = vec![1];
        assert_eq!(differing_fields(&a, &b), ["generator.cpus", "timing.duration"]);
    }

    #[test]
    fn another_arrival_differs_in_its_mode() {
        let a = synthetic::scenario();
        let mut b = a.clone();
        b.arrival = Arrival::Closed { in_flight: 1 };
        assert!(differing_fields(&a, &b).contains(&"arrival.mode".to_owned()));
    }
}
