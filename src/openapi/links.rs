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
        for (from, status, to, parameters) in LINKS {
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
}
