//! The plainest value that fits a JSON schema: what a simulated model fills a form with.

use serde_json::{Map, Value, json};

/// How deep a schema is followed: one that refers to itself ends somewhere.
const DEEPEST: usize = 12;

/// A value that fits `schema`, as far as these keywords say: `const`, `enum`, `$ref`, `anyOf`, `oneOf`,
/// `allOf`, `type`, `properties`, `required`, `items`, `minItems`, `minimum`, `minLength`. Anything else is
/// taken for an object without properties.
pub(super) fn of(schema: &Value) -> Value {
    build(schema, schema, 0)
}

fn build(schema: &Value, root: &Value, depth: usize) -> Value {
    if depth > DEEPEST {
        return Value::Null;
    }
    if let Some(fixed) = schema.get("const") {
        return fixed.clone();
    }
    if let Some(first) = schema.get("enum").and_then(|values| values.get(0)) {
        return first.clone();
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let found = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return found.map_or(Value::Null, |found| build(found, root, depth + 1));
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(choice).and_then(|options| options.get(0)) {
            return build(first, root, depth + 1);
        }
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None => None,
    };
    match kind {
        Some("string") => string(schema),
        Some("integer") => json!(
            schema
                .get("minimum")
                .and_then(Value::as_f64)
                .map_or(1, |least| least.ceil() as i64)
        ),
        Some("number") => json!(schema.get("minimum").and_then(Value::as_f64).unwrap_or(1.0)),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        Some("array") => array(schema, root, depth),
        _ => object(schema, root, depth),
    }
}

fn string(schema: &Value) -> Value {
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0) as usize;
    let text = match schema.get("format").and_then(Value::as_str) {
        Some("date") => "2026-01-01".to_owned(),
        Some("date-time") => "2026-01-01T00:00:00Z".to_owned(),
        Some("email") => "someone@example.com".to_owned(),
        _ => "simulated".to_owned(),
    };
    json!(format!("{text:x<least$}"))
}

fn array(schema: &Value, root: &Value, depth: usize) -> Value {
    let count = schema
        .get("minItems")
        .and_then(Value::as_u64)
        .unwrap_or(1)
        .clamp(1, 64);
    let item = schema
        .get("items")
        .map_or(Value::Null, |items| build(items, root, depth + 1));
    Value::Array(vec![item; count as usize])
}

fn object(schema: &Value, root: &Value, depth: usize) -> Value {
    let mut fields = Map::new();
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            fields.insert(name.clone(), build(property, root, depth + 1));
        }
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_a_form() {
        let schema = json!({
            "type": "object",
            "$defs": {"unit": {"enum": ["celsius", "kelvin"]}},
            "properties": {
                "city": {"type": "string"},
                "unit": {"$ref": "#/$defs/unit"},
                "days": {"type": "array", "minItems": 2, "items": {"type": "integer", "minimum": 3}},
                "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            },
        });
        let expected = json!({"city": "simulated", "unit": "celsius", "days": [3, 3], "note": null});
        assert_eq!(of(&schema), expected);
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({"type": "object", "properties": {"child": {"$ref": "#"}}});
        assert!(of(&schema).to_string().len() < 1000);
    }

    #[test]
    fn a_tool_without_parameters_gets_an_empty_object() {
        assert_eq!(of(&Value::Null), json!({}));
    }
}
