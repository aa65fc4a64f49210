//! Operations that are not below `/api/v1`: what load balancers ask, and what verifies tokens.

use serde_json::{Value, json};

pub(super) fn add(document: &mut Value) {
    let tag = json!({"name": "Service", "description": "Whether the service works, and the keys that it signs with."});
    if let Some(tags) = document["tags"].as_array_mut() {
        tags.push(tag);
        tags.sort_by_key(|tag| tag["name"].as_str().unwrap_or_default().to_owned());
    }
    let schemas = &mut document["components"]["schemas"];
    schemas["Health"] = health();
    schemas["Readiness"] = readiness();
    schemas["KeySet"] = key_set();
    let paths = &mut document["paths"];
    paths["/health"] = json!({"get": operation(
        "getHealth", "Ask whether the process lives",
        "Says nothing of what it depends on, so that a database that is away restarts nobody.",
        &[("200", "It does.", "Health")],
    )});
    paths["/health/ready"] = json!({"get": operation(
        "getReadiness", "Ask whether the process can do its work",
        "Each part has a second to answer. Redis and a queue that waits make no process unready.",
        &[("200", "It can.", "Readiness"), ("503", "It cannot; `parts` says why.", "Readiness")],
    )});
    paths["/health/ready"]["get"]["responses"]["503"]["headers"] =
        json!({"Retry-After": {"$ref": "#/components/headers/RetryAfter"}});
    paths["/.well-known/jwks.json"] = json!({"get": operation(
        "getKeys", "Get the keys that verify access tokens",
        "A JSON Web Key Set (RFC 7517). It may be kept for a minute.",
        &[("200", "The keys.", "KeySet")],
    )});
}

fn operation(id: &str, summary: &str, description: &str, answers: &[(&str, &str, &str)]) -> Value {
    let mut responses = json!({});
    for (status, description, schema) in answers {
        responses[*status] = json!({
            "description": description,
            "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}},
        });
    }
    json!({
        "operationId": id, "summary": summary, "description": description, "tags": ["Service"],
        "security": [], "responses": responses,
    })
}

fn health() -> Value {
    json!({
        "type": "object",
        "description": "That the process lives.",
        "required": ["status", "timestamp", "version"],
        "properties": {
            "status": {"type": "string", "enum": ["healthy"]},
            "timestamp": {"type": "string", "format": "date-time"},
            "version": {"type": "string", "description": "Of the service.", "example": "0.1.0"},
        },
    })
}

fn readiness() -> Value {
    let part = |about: &str| json!({"type": "string", "description": about, "example": "ok"});
    json!({
        "type": "object",
        "description": "Whether the process can do its work.",
        "required": ["status", "timestamp", "version", "parts"],
        "properties": {
            "status": {"type": "string", "enum": ["ready", "unavailable"]},
            "timestamp": {"type": "string", "format": "date-time"},
            "version": {"type": "string", "description": "Of the service.", "example": "0.1.0"},
            "parts": {
                "type": "object",
                "description": "`ok`, or what is wrong, in words.",
                "required": ["postgres", "redis", "migrations", "queue"],
                "properties": {
                    "postgres": part("The database."),
                    "redis": part("The cache between processes; may be `not configured`."),
                    "migrations": part("Whether the database has the schema that this version needs."),
                    "queue": part("Whether jobs are done in time."),
                },
            },
        },
    })
}

fn key_set() -> Value {
    let text =
        |about: &str, example: &str| json!({"type": "string", "description": about, "example": example});
    json!({
        "type": "object",
        "description": "A JSON Web Key Set.",
        "required": ["keys"],
        "properties": {"keys": {"type": "array", "items": {
            "type": "object",
            "required": ["kty", "crv", "alg", "use", "kid", "x"],
            "properties": {
                "kty": text("The kind of key.", "OKP"),
                "crv": text("The curve.", "Ed25519"),
                "alg": text("The algorithm of signatures.", "EdDSA"),
                "use": text("What it is for: signatures.", "sig"),
                "kid": text("Names the key; tokens name theirs.", "2026-11"),
                "x": text("The public key in base64url.", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
            },
        }}},
    })
}
