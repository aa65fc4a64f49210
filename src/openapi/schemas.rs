//! Schemas, mended: closed where requests are, with every field that is always there in answers, and without what generators of
//! clients stumble over.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{each_operation, members_mut, referenced};

pub(super) fn mend(document: &mut Value) {
    walk(document, &mut |schema| {
        flatten_reference(schema);
        whole_bounds(schema);
    });
    let known = document["components"]["schemas"].clone();
    walk(document, &mut |schema| type_nullable(schema, &known));
    let asked = close_bodies(document);
    for (name, schema) in members_mut(&mut document["components"]["schemas"]) {
        if !asked.contains(name) {
            require_nullable(schema);
        }
        if let Some(schema) = schema.as_object_mut() {
            // It is the name.
            schema.remove("title");
        }
    }
}

fn walk(value: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    visit(value);
    match value {
        Value::Object(object) => object.values_mut().for_each(|value| walk(value, visit)),
        Value::Array(values) => values.iter_mut().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

/// The framework says what a field that refers to a schema means in a second part of `allOf`, which makes generators merge two
/// types or leave the operation out. It may stand beside `allOf` as well, which is how it is usually written.
fn flatten_reference(schema: &mut Value) {
    let Some(parts) = schema.get_mut("allOf").and_then(Value::as_array_mut) else { return };
    if parts.len() != 2 || referenced(&parts[0]).is_none() || parts[1].get("type").is_some() {
        return;
    }
    let words = parts.pop().unwrap_or_default();
    for (name, word) in super::members(&words) {
        schema[name] = word.clone();
    }
}

/// `nullable` counts beside a type only.
fn type_nullable(schema: &mut Value, known: &Value) {
    if schema.get("nullable").is_some() && schema.get("type").is_none() {
        let referenced = schema.pointer("/allOf/0").and_then(referenced);
        if let Some(kind) = referenced.and_then(|name| known[name].get("type")) {
            schema["type"] = kind.clone();
        }
    }
}

/// Bounds of whole numbers are whole.
fn whole_bounds(schema: &mut Value) {
    if schema.get("type").is_none_or(|kind| kind != "integer") {
        return;
    }
    for bound in ["minimum", "maximum"] {
        if let Some(number) = schema.get(bound).and_then(Value::as_f64) {
            #[expect(clippy::cast_possible_truncation, reason = "bounds of fields are small")]
            let whole = number as i64;
            schema[bound] = json!(whole);
        }
    }
}

/// A field that may be null is null, and not left out, where we answer.
fn require_nullable(schema: &mut Value) {
    let nullable: Vec<_> = super::members(&schema["properties"])
        .filter(|(_, field)| field["nullable"] == true)
        .map(|(name, _)| json!(name))
        .collect();
    if nullable.is_empty() {
        return;
    }
    let mut required = schema["required"].as_array().cloned().unwrap_or_default();
    required.extend(nullable);
    schema["required"] = json!(required);
}

/// Unknown fields are refused, and the document says so. Gives the names of the schemas of requests.
fn close_bodies(document: &mut Value) -> BTreeSet<String> {
    let mut pending = vec![];
    each_operation(document, |_, _, operation| collect_references(&operation["requestBody"], &mut pending));
    let mut asked = BTreeSet::new();
    while let Some(name) = pending.pop() {
        let schema = &mut document["components"]["schemas"][&name];
        if asked.insert(name) {
            if schema["type"] == "object" {
                schema["additionalProperties"] = json!(false);
            }
            collect_references(schema, &mut pending);
        }
    }
    asked
}

fn collect_references(value: &Value, names: &mut Vec<String>) {
    names.extend(referenced(value).map(str::to_owned));
    match value {
        Value::Object(object) => object.values().for_each(|value| collect_references(value, names)),
        Value::Array(values) => values.iter().for_each(|value| collect_references(value, names)),
        _ => {}
    }
}
