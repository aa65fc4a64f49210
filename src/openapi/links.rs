//! Links: what an answer leads to. Clients may follow them, and so do tests that walk through the API.

use serde_json::{Value, json};

use super::each_operation;

/// An operation, the status of its answer, where that leads to, and what the parameters there are.
type Link = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const ID: &str = "$response.body#/data/id";
const SAME: &str = "$request.path.id";
const TAG: &str = "$response.header.ETag";
const NEXT: &[(&str, &str)] = &[("cursor", "$response.body#/pagination/next_cursor")];

const LINKS: &[Link] = &[
    ("createTenant", "201", "getTenant", &[("id", "$response.body#/data/tenant/id")]),
    ("getTenant", "200", "updateTenant", &[("id", SAME), ("If-Match", TAG)]),
    ("getTenant", "200", "getTenantMetadata", &[("id", SAME)]),
    ("createUser", "201", "getUser", &[("id", ID)]),
    ("createUser", "201", "updateUser", &[("id", ID), ("If-Match", TAG)]),
    ("createUser", "201", "deleteUser", &[("id", ID), ("If-Match", TAG)]),
    ("createUser", "201", "getUserMetadata", &[("id", ID)]),
    ("createUser", "201", "listUserProjects", &[("id", ID)]),
    ("createUser", "201", "getUserData", &[("id", ID)]),
    ("createUser", "201", "resetUserTotp", &[("id", ID)]),
    ("getUser", "200", "updateUser", &[("id", SAME), ("If-Match", TAG)]),
    ("getUser", "200", "deleteUser", &[("id", SAME), ("If-Match", TAG)]),
    ("updateUser", "200", "getUser", &[("id", SAME)]),
    ("deleteUser", "204", "restoreUser", &[("id", SAME)]),
    ("deleteUser", "204", "eraseUser", &[("id", SAME)]),
    ("restoreUser", "200", "getUser", &[("id", SAME)]),
    ("listUsers", "200", "getUser", &[("id", "$response.body#/data/0/id")]),
    ("listUsers", "200", "listUsers", NEXT),
    ("listDeletedUsers", "200", "restoreUser", &[("id", "$response.body#/data/0/id")]),
    ("listDeletedUsers", "200", "listDeletedUsers", NEXT),
    ("getUserMetadata", "200", "updateUserMetadata", &[("id", SAME), ("If-Match", TAG)]),
    ("getTenantMetadata", "200", "updateTenantMetadata", &[("id", SAME), ("If-Match", TAG)]),
    (
        "putUserProject",
        "204",
        "deleteUserProject",
        &[("id", SAME), ("project_id", "$request.path.project_id")],
    ),
    ("listUserProjects", "200", "listUserProjects", &[("id", SAME), NEXT[0]]),
    ("createImport", "202", "getImport", &[("id", ID)]),
    ("createImport", "202", "getImportReport", &[("id", ID)]),
    ("createImport", "202", "deleteImport", &[("id", ID)]),
    ("listImports", "200", "listImports", NEXT),
    ("createInvitations", "201", "resendInvitation", &[("id", "$response.body#/data/invitations/0/id")]),
    ("createInvitations", "201", "deleteInvitation", &[("id", "$response.body#/data/invitations/0/id")]),
    ("createApiKey", "201", "deleteApiKey", &[("id", "$response.body#/data/api_key/id")]),
    ("listSessions", "200", "deleteSession", &[("id", "$response.body#/data/sessions/0/id")]),
    ("listTenants", "200", "listTenants", NEXT),
    ("listAuditEvents", "200", "listAuditEvents", NEXT),
    ("listSubscriptions", "200", "getSubscription", &[("id", "$response.body#/data/subscriptions/0/id")]),
    ("pushJob", "201", "getJob", &[("id", ID)]),
    ("pushJob", "201", "cancelJob", &[("id", ID)]),
    ("pushJob", "201", "retryJob", &[("id", ID)]),
    ("listJobs", "200", "getJob", &[("id", "$response.body#/data/0/id")]),
    ("listJobs", "200", "listJobs", NEXT),
    ("listJobs", "200", "retryJob", &[("id", "$response.body#/data/0/id")]),
    ("getMe", "200", "getUser", &[("id", ID)]),
    ("getMe", "200", "getUserData", &[("id", ID)]),
    ("getMe", "200", "getUserMetadata", &[("id", ID)]),
    ("getMe", "200", "lookupUser", &[("email", "$response.body#/data/email")]),
    ("getMe", "200", "getTenant", &[("id", "$response.body#/data/tenant_id")]),
    ("getTenant", "200", "closeTenant", &[("id", SAME), ("If-Match", TAG)]),
    ("closeTenant", "204", "reopenTenant", &[("id", SAME)]),
    ("listTenants", "200", "getTenant", &[("id", "$response.body#/data/0/id")]),
    ("listApiKeys", "200", "deleteApiKey", &[("id", "$response.body#/data/api_keys/0/id")]),
    ("listInvitations", "200", "deleteInvitation", &[("id", "$response.body#/data/invitations/0/id")]),
    ("listImports", "200", "getImportReport", &[("id", "$response.body#/data/0/id")]),
    (
        "findUsersByMetadata",
        "200",
        "findUsersByMetadata",
        &[("key", "$request.query.key"), ("value", "$request.query.value"), NEXT[0]],
    ),
];

/// Sessions are renewed and ended by what is in a body.
const BODIES: &[(&str, &str, &str)] = &[
    ("login", "200", "refreshSession"),
    ("login", "200", "logout"),
    ("refreshSession", "200", "refreshSession"),
    ("refreshSession", "200", "logout"),
];

pub(super) fn add(document: &mut Value) {
    each_operation(document, |_, _, operation| {
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        for (_, status, to, parameters) in LINKS.iter().filter(|(from, ..)| *from == id) {
            let parameters: serde_json::Map<_, _> =
                parameters.iter().map(|(name, from)| ((*name).to_owned(), json!(from))).collect();
            link(operation, status, to, json!({"operationId": to, "parameters": parameters}));
        }
        for (_, status, to) in BODIES.iter().filter(|(from, ..)| *from == id) {
            let body = json!({"refresh_token": "$response.body#/data/refresh_token"});
            link(operation, status, to, json!({"operationId": to, "requestBody": body}));
        }
    });
}

fn link(operation: &mut Value, status: &str, to: &str, link: Value) {
    operation["responses"][status]["links"][to] = link;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn links_lead_from_answers_that_there_are_to_parameters_that_there_are() {
        let mut operations = BTreeMap::new();
        each_operation(&mut super::super::document(), |_, _, operation| {
            operations
                .insert(operation["operationId"].as_str().unwrap_or_default().to_owned(), operation.clone());
        });
        let document = super::super::document();
        for (from, status, to, parameters) in LINKS {
            for (_, from_where) in *parameters {
                let answer = &operations[*from]["responses"][status];
                assert!(has(&document, answer, from_where), "{from} has no {from_where}");
            }
            assert!(operations[*from]["responses"][status]["description"].is_string(), "{from} {status}");
            let known = operations[*to]["parameters"].as_array().cloned().unwrap_or_default();
            for (name, _) in *parameters {
                assert!(known.iter().any(|parameter| parameter["name"] == *name), "{from} {to} {name}");
            }
            let needed = known.iter().filter(|parameter| parameter["required"] == true);
            for parameter in needed {
                assert!(
                    parameters.iter().any(|(name, _)| parameter["name"] == *name),
                    "{from} {to} lacks {parameter}"
                );
            }
        }
        for (from, status, to) in BODIES {
            assert!(operations[*from]["responses"][status]["content"].is_object(), "{from} {status}");
            assert!(operations[*to]["requestBody"].is_object(), "{to}");
        }
    }

    /// Whether the schema of an answer has what an expression names.
    fn has(document: &Value, answer: &Value, expression: &str) -> bool {
        let Some((_, path)) = expression.split_once("$response.body#/") else { return true };
        let schema =
            super::super::members(&answer["content"]).next().map_or(&Value::Null, |(_, it)| &it["schema"]);
        reaches(document, schema, &path.split('/').collect::<Vec<_>>())
    }

    fn reaches(document: &Value, schema: &Value, path: &[&str]) -> bool {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
            return reaches(document, target, path);
        }
        let kinds = ["allOf", "anyOf", "oneOf"].iter().filter_map(|kind| schema[kind].as_array()).flatten();
        if kinds.into_iter().any(|kind| reaches(document, kind, path)) {
            return true;
        }
        match path {
            [] => !schema.is_null(),
            [name, rest @ ..] if name.parse::<usize>().is_ok() => reaches(document, &schema["items"], rest),
            [name, rest @ ..] => reaches(document, &schema["properties"][name], rest),
        }
    }
}
