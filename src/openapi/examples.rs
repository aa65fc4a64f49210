//! Examples: of each request one that is taken, of each success one that could be given. Linters check them against their schemas,
//! and a test sends those of requests.

use serde_json::{Map, Value, json};

use super::{each_operation, members, members_mut, referenced};

pub(super) const ID: &str = "01a204d1-9580-76fa-b032-43ff299b9f98";
pub(super) const REQUEST: &str = "01a204ce-1672-7040-b398-b782837a3b96";
pub(super) const TIME: &str = "2026-11-22T19:52:55.883Z";
const DAY: &str = "2026-11-22";
const TOKEN: &str = "kq3Vf0v6H1yT9mX2bR7cL5wZ8nJ4dS0aPfGhKtUeYrI";
const JWT: &str = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIwMWEyMDRkMSJ9.c2lnbmF0dXJl";
const PASSWORD: &str = "Correct-Horse-1";
const ROWS: &str = "email,name,role\nlin@example.org,Lin,user\n";
const LINES: &str = "{\"email\":\"lin@example.org\",\"name\":\"Lin\",\"role\":\"user\"}\n";

pub(super) fn add(document: &mut Value) {
    let schemas = document["components"]["schemas"].clone();
    each_operation(document, |_, _, operation| {
        // Not by index: to ask for what is not there would make it.
        for (kind, media) in operation.pointer_mut("/requestBody/content").into_iter().flat_map(members_mut) {
            set(media, kind, &schemas, true);
        }
        for (_, response) in members_mut(&mut operation["responses"]) {
            for (kind, media) in response.get_mut("content").into_iter().flat_map(members_mut) {
                set(media, kind, &schemas, false);
            }
        }
    });
}

fn set(media: &mut Value, kind: &str, schemas: &Value, asked: bool) {
    let of_request = referenced(&media["schema"]).and_then(request).filter(|_| asked);
    media["example"] = match kind {
        "text/csv" => json!(ROWS),
        "application/x-ndjson" => json!(LINES),
        _ => of_request.unwrap_or_else(|| Builder { schemas }.of("", "", &media["schema"])),
    };
}

/// What is sent, by the name of its schema.
fn request(schema: &str) -> Option<Value> {
    Some(match schema {
        "SignUp" => json!({
            "tenant": {"name": "Acme", "slug": "acme"},
            "email": "ada@acme.example", "password": PASSWORD, "name": "Ada Lovelace",
        }),
        "Login" => json!({"tenant": "acme", "email": "ada@acme.example", "password": PASSWORD}),
        "Refresh" | "Logout" => json!({"refresh_token": TOKEN}),
        "Addressee" => json!({"tenant": "acme", "email": "ada@acme.example"}),
        "VerifyEmail" => json!({"token": TOKEN}),
        "ResetPassword" => json!({"token": TOKEN, "password": "Battery-Staple-2"}),
        "ChangePassword" => json!({"current_password": PASSWORD, "new_password": "Battery-Staple-2"}),
        "AcceptInvitation" => {
            json!({"token": TOKEN, "name": "Grace Hopper", "password": "Battery-Staple-2"})
        }
        "StartTotp" => json!({"current_password": PASSWORD}),
        "ConfirmTotp" => json!({"code": "492039"}),
        "BothFactors" => json!({"current_password": PASSWORD, "code": "492039"}),
        "Introspect" => json!({"token": JWT}),
        "CreateUser" => json!({"email": "grace@acme.example", "name": "Grace Hopper", "role": "user"}),
        "UpdateUser" => json!({"name": "Grace Murray Hopper"}),
        "BatchGet" => json!({"ids": [ID]}),
        "BulkCreate" => json!({"users": [
            {"email": "grace@acme.example", "name": "Grace Hopper"},
            {"email": "lin@acme.example", "name": "Lin", "role": "admin"},
        ]}),
        "Invite" => json!({"emails": ["grace@acme.example"], "role": "user"}),
        "CreateApiKey" => json!({"name": "nightly sync", "scopes": ["users:read", "users:write"]}),
        "UpdateTenant" => json!({"name": "Acme Ltd"}),
        "MetadataPatch" => json!({"public": {"locale": "en"}, "private": {"crm_id": "A-1017"}}),
        "CreateCheckout" => json!({
            "plan": "pro",
            "success_url": "https://app.example.org/paid", "cancel_url": "https://app.example.org/plans",
        }),
        "CreatePortal" => json!({"return_url": "https://app.example.org/plans"}),
        "PushJob" => json!({"kind": "invalidate_user", "payload": {"user_id": ID}}),
        "RetryDead" => json!({"kind": "invalidate_user"}),
        _ => return None,
    })
}

/// What a field holds, by the name of its schema and its own, where its type alone does not tell.
fn field(schema: &str, name: &str) -> Option<Value> {
    Some(match (schema, name) {
        ("Tenant" | "NewTenant", "name") => json!("Acme"),
        ("ApiKey", "name") => json!("nightly sync"),
        ("UsersByState", "active") => json!(25),
        ("Import", "rate") => json!(850.5),
        ("Import", "eta_seconds") => json!(12.5),
        ("Import", "reason" | "finished_at" | "keep_until")
        | ("Job", "finished_at" | "last_error" | "unique_key" | "started_at")
        | ("Tenant", "closed_at" | "purge_after")
        | ("Entitlement", "grace_until")
        | ("Subscription", "cancel_at" | "canceled_at" | "ended_at" | "trial_end" | "resumes_at")
        | (_, "pending_email" | "stripe_schedule_id") => Value::Null,
        ("Import", "state") => json!("running"),
        ("Import", "total") => json!(1000),
        ("Import", "done") => json!(400),
        ("Import", "created") => json!(399),
        ("Job" | "JobCount", "kind") => json!("invalidate_user"),
        ("Job", "payload") => json!({"user_id": ID}),
        ("Job", "history") | ("BulkRowResult", "errors") => json!([]),
        ("JobAttempt", "outcome") => json!("failed"),
        ("AuditEvent", "action") => json!("user.updated"),
        ("AuditEvent", "detail") => json!({"fields": ["name"]}),
        ("AuditEvent", "address") => json!("198.51.100.0/24"),
        ("Metadata", "public") => json!({"locale": "en"}),
        ("Metadata", "private") => json!({"crm_id": "A-1017"}),
        ("Records", "table") => json!("users"),
        ("Records", "rows") => json!([{"id": ID, "email": "ada@acme.example"}]),
        ("Records", "when_erased") => json!("removed"),
        ("Subscription", "status") => json!("active"),
        ("SignedInSession", "token_type") => json!("Bearer"),
        ("SignedInSession", "expires_in") => json!(600),
        ("Session", "address") => json!("198.51.100.7"),
        ("Pagination", "pages" | "page" | "total") | ("BulkResult", "created") | ("SignUps", "users") => {
            json!(1)
        }
        ("JobCount", "jobs")
        | ("Retried", "retried")
        | ("UserFigures", "total_projects")
        | (_, "version") => json!(1),
        ("Pagination" | "Cursor", "limit") => json!(10),
        ("StripePage", "id") => json!("cs_test_a1"),
        ("StripePage", "url") => json!("https://checkout.stripe.com/c/pay/cs_test_a1"),
        (_, "name") => json!("Ada Lovelace"),
        (_, "slug") => json!("acme"),
        (_, "email") => json!("ada@acme.example"),
        (_, "success" | "is_active" | "email_verified" | "active" | "new" | "enabled" | "is_whole") => {
            json!(true)
        }
        (_, "message") => json!("Success"),
        (_, "token") => json!(JWT),
        (_, "refresh_token") => json!(TOKEN),
        (_, "next_cursor") => json!("AZ9mYk1vS0x2"),
        (_, "hint") => json!("x9Qf"),
        (_, "key") => json!("tk_8rWn2vQe5tYb1xKz7mHc4dJf9sLg3pAu6iOx9Qf"),
        (_, "user_agent") => json!("Mozilla/5.0"),
        (_, "secret") => json!("JBSWY3DPEHPK3PXP"),
        (_, "uri") => json!("otpauth://totp/Acme:ada%40acme.example?secret=JBSWY3DPEHPK3PXP&issuer=Acme"),
        (_, "recovery_codes") => json!(["k7m2p9xr4tq8w3zn5vb6c1dhj2fs"]),
        (_, "missing") => json!(["01a204d1-9580-76fa-b032-000000000000"]),
        (_, "project_id") => json!("apollo"),
        (_, "max_attempts" | "max_users" | "storage_limit_gb" | "recovery_codes_left") => json!(10),
        (_, "requests_per_minute") => json!(6000),
        (_, "stripe_customer_id") => json!("cus_Q1"),
        (_, "stripe_subscription_id") => json!("sub_1Q1"),
        (_, "stripe_item_id") => json!("si_Q1"),
        (_, "price_id") => json!("price_1Q1"),
        (_, "product_id") => json!("prod_Q1"),
        (_, "worker") => json!("worker-1"),
        (_, "error") => json!("the mail server did not answer"),
        (_, "iat") => json!(1_795_377_175),
        (_, "exp") => json!(1_795_377_775),
        _ => return None,
    })
}

struct Builder<'a> {
    schemas: &'a Value,
}

impl Builder<'_> {
    /// An example of what is called `name` in the schema `owner`.
    fn of(&self, owner: &str, name: &str, schema: &Value) -> Value {
        if let Some(example) = schema.get("example") {
            return example.clone();
        }
        if let Some(known) = field(owner, name) {
            return known;
        }
        if let Some(referenced) = referenced(schema) {
            return self.of_schema(referenced);
        }
        let part = ["allOf", "oneOf", "anyOf"].iter().find_map(|parts| schema.get(*parts)?.get(0));
        if let Some(part) = part {
            return self.of(owner, "", part);
        }
        if let Some(first) = schema["enum"].get(0) {
            return first.clone();
        }
        match schema["type"].as_str() {
            Some("object") => self.object(owner, schema),
            Some("array") => json!([self.of(owner, "", &schema["items"])]),
            Some("string") => text(schema["format"].as_str()),
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(0)),
            Some("boolean") => json!(false),
            _ => json!({}),
        }
    }

    fn of_schema(&self, name: &str) -> Value {
        let schema = &self.schemas[name];
        match schema["properties"].is_object() {
            true => self.object(name, schema),
            false => self.of(name, "", schema),
        }
    }

    fn object(&self, owner: &str, schema: &Value) -> Value {
        let fields = members(&schema["properties"]);
        let fields = fields.map(|(name, field)| (name.clone(), self.of(owner, name, field)));
        Value::Object(fields.collect::<Map<_, _>>())
    }
}

fn text(format: Option<&str>) -> Value {
    json!(match format {
        Some("uuid") => ID,
        Some("date-time") => TIME,
        Some("date") => DAY,
        Some("email") => "ada@acme.example",
        Some("uri") => "https://app.example.org/",
        _ => "text",
    })
}
