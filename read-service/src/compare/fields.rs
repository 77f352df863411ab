//! Which fields of two documents differ.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Most fields that are named.
const NAMED_FIELDS: usize = 8;

/// The paths of the fields that differ, a bounded number of them.
pub(super) fn differing_fields(expected: &Value, found: &Value) -> String {
    let mut names = Vec::new();
    name_differences("", expected, found, &mut names);
    let more = if names.len() > NAMED_FIELDS { ", ..." } else { "" };
    names.truncate(NAMED_FIELDS);
    names.join(", ") + more
}

/// Gathers one path more than are named at most.
fn name_differences(path: &str, expected: &Value, found: &Value, names: &mut Vec<String>) {
    if expected == found || names.len() > NAMED_FIELDS {
        return;
    }
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            let of = |fields: &Map<String, Value>, name: &str| fields.get(name).cloned().unwrap_or_default();
            for name in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                name_differences(&inner, &of(expected, name), &of(found, name), names);
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
                name_differences(&format!("{path}[{i}]"), expected, found, names);
            }
        }
        _ => names.push(if path.is_empty() { "all".to_owned() } else { path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_differ_are_named_with_their_place() {
        let expected = json!({ "a": 1, "lines": [{ "n": 1 }, { "n": 2, "m": "x" }], "gone": true });
        let found = json!({ "a": 1, "lines": [{ "n": 1 }, { "n": 3, "m": "x" }], "new": 1 });
        assert_eq!(differing_fields(&expected, &found), "gone, lines[1].n, new");
        assert_eq!(differing_fields(&json!({ "lines": [1] }), &json!({ "lines": [1, 2] })), "lines");
        let many: Value = (0..12).map(|n| (format!("f{n:02}"), json!(n))).collect::<Map<_, _>>().into();
        assert_eq!(differing_fields(&many, &json!({})), "f00, f01, f02, f03, f04, f05, f06, f07, ...");
    }
}
