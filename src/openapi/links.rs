//! Where an answer leads: what it names can be read, changed and deleted by these operations.

use serde_json::{Map, Value, json};

/// An operation, its answer, and where that leads: what names the thing in the answer, and operations with the parameter that
/// takes it.
struct Leads {
    from: &'static str,
    status: &'static str,
    /// A runtime expression of the OpenAPI specification.
    by: &'static str,
    to: &'static [(&'static str, &'static str)],
}

const fn leads(
    from: &'static str,
    status: &'static str,
    by: &'static str,
    to: &'static [(&'static str, &'static str)],
) -> Leads {
    Leads { from, status, by, to }
}

const ID: &str = "$response.body#/data/id";
const FIRST: &str = "$response.body#/data/0/id";
const NEXT: &str = "$response.body#/pagination/next_cursor";

const OF_A_USER: &[(&str, &str)] = &[
    ("getUser", "id"),
    ("updateUser", "id"),
    ("deleteUser", "id"),
    ("restoreUser", "id"),
    ("eraseUser", "id"),
    ("getUserData", "id"),
    ("getUserMetadata", "id"),
    ("updateUserMetadata", "id"),
    ("listUserProjects", "id"),
    ("putUserProject", "id"),
    ("resetUserTotp", "id"),
];
const OF_A_TENANT: &[(&str, &str)] = &[
    ("getTenant", "id"),
    ("updateTenant", "id"),
    ("closeTenant", "id"),
    ("getTenantMetadata", "id"),
    ("updateTenantMetadata", "id"),
    ("reopenTenant", "id"),
];
const OF_AN_IMPORT: &[(&str, &str)] = &[("getImport", "id"), ("getImportReport", "id"), ("deleteImport", "id")];
const OF_A_JOB: &[(&str, &str)] = &[("getJob", "id"), ("retryJob", "id"), ("cancelJob", "id")];
const OF_AN_INVITATION: &[(&str, &str)] = &[("resendInvitation", "id"), ("deleteInvitation", "id")];

const LEADS: &[Leads] = &[
    leads("createUser", "201", ID, OF_A_USER),
    leads("listUsers", "200", FIRST, &[("getUser", "id"), ("updateUser", "id")]),
    leads("listUsers", "200", NEXT, &[("listUsers", "cursor")]),
    leads("listDeletedUsers", "200", FIRST, &[("restoreUser", "id"), ("eraseUser", "id")]),
    leads("listDeletedUsers", "200", NEXT, &[("listDeletedUsers", "cursor")]),
    leads("findUsersByMetadata", "200", NEXT, &[("findUsersByMetadata", "cursor")]),
    leads("getMe", "200", ID, OF_A_USER),
    leads("getMe", "200", "$response.body#/data/tenant_id", OF_A_TENANT),
    leads("getMe", "200", "$response.body#/data/email", &[("lookupUser", "email")]),
    leads("createImport", "202", ID, OF_AN_IMPORT),
    leads("listImports", "200", FIRST, OF_AN_IMPORT),
    leads("listImports", "200", NEXT, &[("listImports", "cursor")]),
    leads("createInvitations", "201", "$response.body#/data/invitations/0/id", OF_AN_INVITATION),
    leads("listInvitations", "200", "$response.body#/data/invitations/0/id", OF_AN_INVITATION),
    leads("createApiKey", "201", "$response.body#/data/api_key/id", &[("deleteApiKey", "id")]),
    leads("listApiKeys", "200", "$response.body#/data/api_keys/0/id", &[("deleteApiKey", "id")]),
    leads("listSessions", "200", "$response.body#/data/sessions/0/id", &[("deleteSession", "id")]),
    leads("pushJob", "201", ID, OF_A_JOB),
    leads("listJobs", "200", FIRST, OF_A_JOB),
    leads("listJobs", "200", NEXT, &[("listJobs", "cursor")]),
    leads("listAuditEvents", "200", NEXT, &[("listAuditEvents", "cursor")]),
    leads("listTenants", "200", FIRST, OF_A_TENANT),
    leads("listSubscriptions", "200", "$response.body#/data/subscriptions/0/id", &[("getSubscription", "id")]),
    leads("register", "201", "$response.body#/data/tenant/id", &[("login", "X-Tenant-ID")]),
    leads("createTenant", "201", "$response.body#/data/tenant/id", OF_A_TENANT),
];

/// A token that an answer carries and a body takes: from, status, where it stands, to, its field.
const TOKENS: &[(&str, &str, &str, &str)] = &[
    ("login", "200", "refreshSession", "$response.body#/data/refresh_token"),
    ("login", "200", "logout", "$response.body#/data/refresh_token"),
    ("refreshSession", "200", "refreshSession", "$response.body#/data/refresh_token"),
];

pub(super) fn add(document: &mut Value) {
    for path in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for operation in path.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let from = operation["operationId"].as_str().unwrap_or_default().to_owned();
            for lead in LEADS.iter().filter(|lead| lead.from == from) {
                for (to, parameter) in lead.to {
                    let link = json!({"operationId": to, "parameters": {*parameter: lead.by}});
                    put(operation, lead.status, to, link);
                }
            }
            for (_, status, to, token) in TOKENS.iter().filter(|token| token.0 == from) {
                put(operation, status, to, json!({"operationId": to, "requestBody": {"refresh_token": token}}));
            }
        }
    }
}

fn put(operation: &mut Value, status: &str, to: &str, link: Value) {
    // An answer that the operation has not would be made up here; the test below looks for it.
    if let Some(answer) = operation["responses"].get_mut(status) {
        answer["links"][to] = link;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_leads_from_an_answer_to_a_parameter() {
        let document: Value = serde_json::from_str(&crate::openapi::json()).unwrap_or_default();
        let operation = |id: &str| {
            let paths = document["paths"].as_object().into_iter().flat_map(Map::values);
            let mut operations = paths.filter_map(Value::as_object).flat_map(Map::values);
            operations.find(|operation| operation["operationId"] == id).cloned().unwrap_or_default()
        };
        for lead in LEADS {
            for (to, parameter) in lead.to {
                let from = operation(lead.from);
                assert!(from["responses"][lead.status]["links"][to].is_object(), "{} to {to}", lead.from);
                assert!(has(&document, &from["responses"][lead.status], lead.by), "{}: {}", lead.from, lead.by);
                let target = operation(to);
                let mut parameters = target["parameters"].as_array().into_iter().flatten();
                assert!(parameters.any(|one| one["name"] == *parameter), "{to} has no {parameter}");
            }
        }
        for (from, status, to, token) in TOKENS {
            let answer = &operation(from)["responses"][status];
            assert!(answer["links"][to].is_object() && has(&document, answer, token), "{from} to {to}");
            assert!(operation(to)["requestBody"].is_object(), "{to}");
        }
    }

    /// Whether the schema of an answer has what an expression names.
    fn has(document: &Value, answer: &Value, expression: &str) -> bool {
        let (_, path) = expression.split_once("#/").unwrap_or_default();
        let content = answer["content"].as_object().and_then(|content| content.values().next());
        let schema = content.map(|content| &content["schema"]).unwrap_or(&Value::Null);
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
