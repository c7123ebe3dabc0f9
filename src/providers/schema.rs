//! JSON schemas cut down to what a provider's own validator takes. A keyword that is left out widens what the model
//! may say, which the client's own check then catches; one that is sent in vain fails the whole request.

use serde_json::{Map, Value};

/// How many schemas the expansion of references may make: a few references to each other can make millions.
const MAX_SCHEMAS: usize = 4_000;

/// The schema in Gemini's dialect, a part of OpenAPI 3: references are put in place, lists of types become
/// `nullable`, `const` an `enum`, and what it does not know is left out.
pub(super) fn for_gemini(schema: &Value) -> Value {
    let mut expansion = Expansion {
        definitions: definitions(schema),
        open: Vec::new(),
        left: MAX_SCHEMAS,
    };
    gemini(schema, &mut expansion)
}

/// References being put in place.
struct Expansion {
    definitions: Map<String, Value>,
    /// References that we are inside of: a recursive schema has no finite form, so it ends at its second turn.
    open: Vec<String>,
    left: usize,
}

fn any_object() -> Value {
    serde_json::json!({"type": "object"})
}

fn reference(target: &str, expansion: &mut Expansion) -> Value {
    let Some(schema) = expansion.definitions.get(target).cloned() else {
        return any_object();
    };
    if expansion.open.iter().any(|open| open == target) {
        return any_object();
    }
    expansion.open.push(target.to_owned());
    let out = gemini(&schema, expansion);
    expansion.open.pop();
    out
}

fn definitions(schema: &Value) -> Map<String, Value> {
    let mut all = Map::new();
    for (key, prefix) in [("$defs", "#/$defs/"), ("definitions", "#/definitions/")] {
        if let Value::Object(named) = &schema[key] {
            all.extend(
                named
                    .iter()
                    .map(|(name, schema)| (format!("{prefix}{name}"), schema.clone())),
            );
        }
    }
    all
}

fn gemini(schema: &Value, expansion: &mut Expansion) -> Value {
    let Value::Object(fields) = schema else {
        // `true` and `{}` allow anything.
        return Value::Object(Map::new());
    };
    if expansion.left == 0 {
        return any_object();
    }
    expansion.left -= 1;
    if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
        return reference(target, expansion);
    }
    let mut out = Map::new();
    for (key, value) in fields {
        match key.as_str() {
            "type" => set_type(&mut out, value),
            "const" => {
                out.insert("enum".into(), Value::Array(vec![text(value)]));
                out.entry("type").or_insert_with(|| "string".into());
            }
            "enum" => set_enum(&mut out, value),
            "properties" => {
                if let Value::Object(properties) = value {
                    let properties = properties
                        .iter()
                        .map(|(name, schema)| (name.clone(), gemini(schema, expansion)))
                        .collect();
                    out.insert("properties".into(), Value::Object(properties));
                }
            }
            "items" => {
                out.insert("items".into(), gemini(value, expansion));
            }
            "anyOf" | "oneOf" => alternatives(&mut out, value, expansion),
            "allOf" => {
                for part in value.as_array().into_iter().flatten() {
                    merge(&mut out, gemini(part, expansion));
                }
            }
            "format"
                if matches!(
                    value.as_str(),
                    Some("date-time" | "enum" | "int32" | "int64" | "float" | "double")
                ) =>
            {
                out.insert(key.clone(), value.clone());
            }
            "title" | "description" | "nullable" | "required" | "minItems" | "maxItems" | "minimum"
            | "maximum" | "minLength" | "maxLength" | "pattern" | "propertyOrdering" => {
                out.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    Value::Object(out)
}

fn set_type(out: &mut Map<String, Value>, value: &Value) {
    match value {
        Value::Array(types) => {
            if types.iter().any(|kind| kind == "null") {
                out.insert("nullable".into(), true.into());
            }
            let kinds: Vec<_> = types.iter().filter(|kind| *kind != "null").cloned().collect();
            match kinds.as_slice() {
                [] => {}
                [kind] => {
                    out.insert("type".into(), kind.clone());
                }
                many => {
                    let many = many
                        .iter()
                        .map(|kind| serde_json::json!({"type": kind}))
                        .collect();
                    out.insert("anyOf".into(), Value::Array(many));
                }
            }
        }
        kind => {
            out.insert("type".into(), kind.clone());
        }
    }
}

/// Gemini's enums are of strings, and none of them empty.
fn set_enum(out: &mut Map<String, Value>, value: &Value) {
    let Value::Array(values) = value else { return };
    if values.iter().any(Value::is_null) {
        out.insert("nullable".into(), true.into());
    }
    let words: Vec<_> = values
        .iter()
        .filter(|value| !value.is_null())
        .map(text)
        .filter(|word| word != "")
        .collect();
    out.insert("enum".into(), Value::Array(words));
    out.insert("type".into(), "string".into());
}

fn text(value: &Value) -> Value {
    match value {
        Value::String(_) => value.clone(),
        other => Value::String(other.to_string()),
    }
}

fn alternatives(out: &mut Map<String, Value>, value: &Value, expansion: &mut Expansion) {
    let all: Vec<&Value> = value.as_array().into_iter().flatten().collect();
    let is_null = |schema: &&Value| schema["type"] == "null";
    if all.iter().any(is_null) {
        out.insert("nullable".into(), true.into());
    }
    let mut rest: Vec<_> = all
        .into_iter()
        .filter(|schema| !is_null(schema))
        .map(|schema| gemini(schema, expansion))
        .collect();
    if rest.len() == 1 {
        merge(out, rest.remove(0));
    } else {
        out.insert("anyOf".into(), Value::Array(rest));
    }
}

fn merge(out: &mut Map<String, Value>, more: Value) {
    let Value::Object(more) = more else { return };
    for (key, value) in more {
        match (out.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (_, value) => {
                out.insert(key, value);
            }
        }
    }
}

/// The schema as Anthropic's structured outputs take it: every object closed, no bounds on numbers or lengths.
pub(super) fn for_anthropic(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut out = Map::new();
            for (key, value) in fields {
                match key.as_str() {
                    "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf"
                    | "minLength" | "maxLength" | "maxItems" | "uniqueItems" | "minProperties"
                    | "maxProperties" | "$schema" | "$id" => {}
                    "minItems" if value.as_u64().is_some_and(|least| least > 1) => {}
                    // These hold names, not keywords.
                    "properties" | "$defs" | "definitions" => {
                        let named = value.as_object().into_iter().flatten();
                        let named = named
                            .map(|(name, schema)| (name.clone(), for_anthropic(schema)))
                            .collect();
                        out.insert(key.clone(), Value::Object(named));
                    }
                    "enum" | "const" | "required" | "default" | "examples" => {
                        out.insert(key.clone(), value.clone());
                    }
                    _ => {
                        out.insert(key.clone(), for_anthropic(value));
                    }
                }
            }
            if out.contains_key("properties") || out.get("type").is_some_and(|kind| kind == "object") {
                out.insert("additionalProperties".into(), false.into());
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.iter().map(for_anthropic).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gemini_gets_references_in_place_and_no_unknown_keyword() {
        let schema = json!({
            "$schema": "x", "type": "object", "additionalProperties": false, "required": ["a"],
            "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "v": {"const": 3}}}},
            "properties": {
                "a": {"type": ["string", "null"], "format": "email", "default": "x"},
                "b": {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}], "description": "d"},
                "c": {"enum": ["x", 1, "", null]},
                "d": {"oneOf": [{"type": "string"}, {"type": "number"}]},
                "e": {"allOf": [{"type": "object", "required": ["x"]}, {"required": ["y"]}]}
            }
        });
        let out = for_gemini(&schema);
        assert_eq!(out.get("$schema"), None);
        assert_eq!(out.get("additionalProperties"), None);
        assert_eq!(
            out["properties"]["a"],
            json!({"nullable": true, "type": "string"})
        );
        assert_eq!(
            out["properties"]["b"],
            json!({"nullable": true, "type": "integer", "description": "d"})
        );
        assert_eq!(
            out["properties"]["c"],
            json!({"nullable": true, "enum": ["x", "1"], "type": "string"})
        );
        assert_eq!(
            out["properties"]["d"],
            json!({"anyOf": [{"type": "string"}, {"type": "number"}]})
        );
        assert_eq!(
            out["properties"]["e"],
            json!({"type": "object", "required": ["x", "y"]})
        );
    }

    #[test]
    fn a_recursive_schema_ends() {
        let schema =
            json!({"$ref": "#/$defs/N", "$defs": {"N": {"properties": {"n": {"$ref": "#/$defs/N"}}}}});
        assert!(for_gemini(&schema).to_string().len() < 2_000);
        let looped = json!({"$ref": "#/$defs/N", "$defs": {"N": {"$ref": "#/$defs/N"}}});
        assert_eq!(for_gemini(&looped), json!({"type": "object"}));
        let mut defs = Map::new();
        for level in 0..40 {
            let next = json!({"$ref": format!("#/$defs/{}", level + 1)});
            defs.insert(
                level.to_string(),
                json!({"properties": {"a": next.clone(), "b": next}}),
            );
        }
        let fan = json!({"$ref": "#/$defs/0", "$defs": defs});
        assert!(for_gemini(&fan).to_string().len() < 1_000_000);
    }

    #[test]
    fn anthropic_gets_closed_objects_without_bounds() {
        let schema = json!({"type": "object", "properties": {"minimum": {"type": "integer", "minimum": 1}}});
        assert_eq!(
            for_anthropic(&schema),
            json!({"type": "object", "properties": {"minimum": {"type": "integer"}}, "additionalProperties": false})
        );
    }
}
