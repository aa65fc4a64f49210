//! No change breaks clients unnoticed: the document of now is compared with the one that clients were last promised,
//! `openapi/released.json`, and each line that breaks them has to stand in CHANGELOG.md, below "Breaking" of what is unreleased.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod compare;
mod schema;

use std::{collections::BTreeSet, fs, path::Path};

use compare::breaking;
use serde_json::{Value, json};

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn document(file: &str) -> Value {
    serde_json::from_str(&read(file)).unwrap()
}

/// What a changelog says breaks clients in what is unreleased: the first words in backquotes of each item.
fn recorded(changelog: &str) -> BTreeSet<String> {
    let unreleased =
        changelog.split("\n## ").find(|part| part.starts_with("[Unreleased]")).unwrap_or_default();
    let section = unreleased.split("\n### ").find(|part| part.starts_with("Breaking")).unwrap_or_default();
    let items = section.lines().filter_map(|line| line.strip_prefix("- `")?.split_once('`'));
    items.map(|(line, _)| line.to_owned()).collect()
}

#[test]
fn what_breaks_clients_is_recorded_in_the_changelog() {
    let found = breaking(&document("openapi/released.json"), &document("openapi/openapi.json"));
    let recorded = recorded(&read("CHANGELOG.md"));
    let missing: Vec<_> = found.difference(&recorded).collect();
    assert!(
        missing.is_empty(),
        "this breaks clients: take it back, or record it in CHANGELOG.md below `### Breaking` of what is unreleased\n{}",
        missing.iter().map(|line| format!("- `{line}`: why, and what clients do\n")).collect::<String>()
    );
    let stale: Vec<_> = recorded.difference(&found).collect();
    assert!(stale.is_empty(), "this is recorded in CHANGELOG.md and breaks nobody: {stale:?}");
}

#[test]
fn a_record_is_an_item_of_the_section_of_what_is_unreleased() {
    let changelog = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- `a: b`: no\n\n### Breaking\n\n- `login: 200 is gone`: because\n  of this\n- nothing\n\n### Fixed\n\n- `c: d`\n\n## [0.1.0]\n\n### Breaking\n\n- `old: gone`\n";
    assert_eq!(recorded(changelog), BTreeSet::from(["login: 200 is gone".to_owned()]));
    assert!(recorded("# Changelog\n\n## [Unreleased]\n\n### Added\n\n- `a: b`\n").is_empty());
}

/// A change of the document, and what is said of it.
type Change = (&'static str, fn(&mut Value));

const USERS: &str = "/api/v1/users";
const USER: &str = "/api/v1/users/{id}";

fn parameter<'a>(document: &'a mut Value, path: &str, name: &str) -> &'a mut Value {
    let parameters = document["paths"][path]["get"]["parameters"].as_array_mut().unwrap();
    parameters.iter_mut().find(|parameter| parameter["name"] == name).unwrap()
}

fn schema<'a>(document: &'a mut Value, name: &str) -> &'a mut Value {
    let schema = &mut document["components"]["schemas"][name];
    assert!(schema.is_object(), "{name}");
    schema
}

fn field<'a>(document: &'a mut Value, name: &str, field: &str) -> &'a mut Value {
    let field = &mut schema(document, name)["properties"][field];
    assert!(field.is_object(), "{name}");
    field
}

fn drop(object: &mut Value, member: &str) {
    assert!(object.as_object_mut().unwrap().remove(member).is_some(), "{member}");
}

fn drop_item(list: &mut Value, item: &str) {
    let before = list.as_array().unwrap().len();
    list.as_array_mut().unwrap().retain(|known| known != item);
    assert_eq!(list.as_array().unwrap().len(), before - 1, "{item}");
}

fn add(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

const BREAKING: &[Change] = &[
    ("deleteUser: the operation is gone", |d| drop(&mut d["paths"][USER], "delete")),
    ("getHealth: the operation is gone", |d| drop(&mut d["paths"], "/health")),
    ("createUser: it is called \"makeUser\" now", |d| {
        d["paths"][USERS]["post"]["operationId"] = json!("makeUser");
    }),
    ("getHealth: it asks for a credential now", |d| {
        d["paths"]["/health"]["get"]["security"] = json!([{"bearer": []}]);
    }),
    ("getUser: it takes the role \"admin\" now", |d| {
        d["paths"][USER]["get"]["x-required-role"] = json!("admin")
    }),
    ("getUser: API keys with \"users:read\" may not call it any more", |d| {
        drop(&mut d["paths"][USER]["get"], "x-api-key-scope");
    }),
    ("createUser: 201 is gone", |d| drop(&mut d["paths"][USERS]["post"]["responses"], "201")),
    ("createUser: 202 is new", |d| {
        d["paths"][USERS]["post"]["responses"]["202"] = json!({"description": "Later"});
    }),
    ("exportUsers: 200 is never text/csv any more", |d| {
        drop(&mut d["paths"]["/api/v1/users/export"]["get"]["responses"]["200"]["content"], "text/csv");
    }),
    ("getUser: 200 has no header ETag any more", |d| {
        drop(&mut d["paths"][USER]["get"]["responses"]["200"]["headers"], "ETag");
    }),
    ("createImport: the body is never text/csv any more", |d| {
        drop(&mut d["paths"]["/api/v1/users/imports"]["post"]["requestBody"]["content"], "text/csv");
    }),
    ("getUser: it takes a body now", |d| d["paths"][USER]["get"]["requestBody"] = json!({"required": true})),
    ("listUsers: the parameter query search is gone", |d| {
        let parameters = d["paths"][USERS]["get"]["parameters"].as_array_mut().unwrap();
        parameters.retain(|parameter| parameter["name"] != "search");
    }),
    ("listUsers: the parameter query search is required now", |d| {
        parameter(d, USERS, "search")["required"] = json!(true);
    }),
    ("listUsers: the parameter query team is new and required", |d| {
        let team = json!({"in": "query", "name": "team", "required": true, "schema": {"type": "string"}});
        add(&mut d["paths"][USERS]["get"]["parameters"], team);
    }),
    ("listUsers: the parameter query limit: maximum was 100 and is 50", |d| {
        parameter(d, USERS, "limit")["schema"]["maximum"] = json!(50);
    }),
    ("listUsers: the parameter query limit: has another default", |d| {
        parameter(d, USERS, "limit")["schema"]["default"] = json!(20);
    }),
    ("SortBy in requests: \"email\" is not taken any more", |d| {
        drop_item(&mut schema(d, "SortBy")["enum"], "email");
    }),
    ("CreateUser in requests: /role is required now", |d| {
        add(&mut schema(d, "CreateUser")["required"], json!("role"))
    }),
    ("CreateUser in requests: /team is new and required", |d| {
        schema(d, "CreateUser")["properties"]["team"] = json!({"type": "string"});
        add(&mut schema(d, "CreateUser")["required"], json!("team"));
    }),
    ("CreateUser in requests: /role is gone", |d| drop(&mut schema(d, "CreateUser")["properties"], "role")),
    ("CreateUser in requests: /name maxLength was 255 and is 10", |d| {
        field(d, "CreateUser", "name")["maxLength"] = json!(10);
    }),
    ("CreateUser in requests: /name has another pattern", |d| {
        field(d, "CreateUser", "name")["pattern"] = json!("^[a-z]+$");
    }),
    ("MetadataPatch in requests: /public may not be null any more", |d| {
        drop(field(d, "MetadataPatch", "public"), "nullable");
    }),
    ("User in answers: /name is gone", |d| {
        drop(&mut schema(d, "User")["properties"], "name");
        drop_item(&mut schema(d, "User")["required"], "name");
    }),
    ("User in answers: /name may be missing now", |d| drop_item(&mut schema(d, "User")["required"], "name")),
    ("User in answers: /name may be null now", |d| field(d, "User", "name")["nullable"] = json!(true)),
    ("User in answers: /version was \"integer\" \"int64\" and is \"string\" null", |d| {
        *field(d, "User", "version") = json!({"type": "string"});
    }),
    ("Role in answers: \"owner\" is a new value", |d| add(&mut schema(d, "Role")["enum"], json!("owner"))),
    ("UserPagination in answers: has 3 forms, not 2", |d| {
        add(&mut schema(d, "UserPagination")["anyOf"], json!({"type": "object"}));
    }),
    ("ErrorCode in answers: \"lost\" is a new value", |d| {
        add(&mut schema(d, "ErrorCode")["enum"], json!("lost"))
    }),
];

const HARMLESS: &[Change] = &[
    ("a new operation", |d| d["paths"]["/api/v1/news"] = json!({"get": {"operationId": "listNews"}})),
    ("a new field of an answer", |d| schema(d, "User")["properties"]["team"] = json!({"type": "string"})),
    ("a field of an answer that is always there now", |d| {
        add(&mut schema(d, "ListedUser")["required"], json!("stats"))
    }),
    ("a value that we do not say any more", |d| drop_item(&mut schema(d, "ActorKind")["enum"], "operator")),
    ("a new field of a request", |d| {
        schema(d, "CreateUser")["properties"]["team"] = json!({"type": "string"})
    }),
    ("a field of a request that may be left out now", |d| {
        drop_item(&mut schema(d, "CreateUser")["required"], "name")
    }),
    ("a field of a request that may be null now", |d| {
        field(d, "CreateUser", "name")["nullable"] = json!(true)
    }),
    ("a longer field of a request", |d| field(d, "CreateUser", "name")["maxLength"] = json!(1000)),
    ("a value that we take as well", |d| add(&mut schema(d, "SortBy")["enum"], json!("updated_at"))),
    ("a new parameter", |d| {
        let team = json!({"in": "query", "name": "team", "schema": {"type": "string"}});
        add(&mut d["paths"][USERS]["get"]["parameters"], team);
    }),
    ("a new error", |d| d["paths"][USERS]["post"]["responses"]["418"] = json!({"description": "Tea"})),
    ("a new header", |d| {
        d["paths"][USER]["get"]["responses"]["200"]["headers"]["Age"] =
            json!({"schema": {"type": "integer"}});
    }),
    ("other words and examples", |d| {
        d["paths"][USERS]["post"]["description"] = json!("Other words.");
        drop(&mut d["paths"][USERS]["post"]["responses"]["201"]["content"]["application/json"], "example");
        drop(&mut d["paths"][USERS]["post"]["responses"]["201"], "links");
    }),
    ("a lower role", |d| d["paths"][USERS]["post"]["x-required-role"] = json!("user")),
    ("another name of a schema", |d| {
        let text = d.to_string().replace("#/components/schemas/SortBy\"", "#/components/schemas/By\"");
        *d = serde_json::from_str(&text).unwrap();
        d["components"]["schemas"]["By"] = schema(d, "SortBy").clone();
        drop(&mut d["components"]["schemas"], "SortBy");
    }),
];

#[test]
fn a_change_that_breaks_clients_is_found_and_named() {
    let old = document("openapi/openapi.json");
    for (line, change) in BREAKING {
        let mut new = old.clone();
        change(&mut new);
        let found = breaking(&old, &new);
        assert!(found.contains(*line), "{line}\n{found:#?}");
    }
}

#[test]
fn a_change_that_breaks_nobody_is_let_pass() {
    let old = document("openapi/openapi.json");
    assert!(breaking(&old, &old).is_empty());
    for (name, change) in HARMLESS {
        let mut new = old.clone();
        change(&mut new);
        assert_ne!(old, new, "{name} changes something");
        assert_eq!(breaking(&old, &new), BTreeSet::new(), "{name}");
    }
}
