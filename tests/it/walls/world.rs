//! Two tenants of one node, and those who call.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tenantry_fake_stripe::{Fake, Options};
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use super::{
    cases::Case,
    operations::{Operation, operations},
};
use crate::{
    app::{PASSWORD, TestApp, answer},
    billing::{price, signature},
};

/// A tenant with an administrator and a user. Whatever belongs to it has its slug in its text, or its id.
pub(super) struct Tenant {
    pub(super) id: Uuid,
    pub(super) slug: String,
    pub(super) admin: Uuid,
}

/// Who calls.
pub(super) struct Caller {
    pub(super) role: &'static str,
    tenant: String,
    email: String,
    pub(super) token: String,
}

/// What somebody is answered.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Tenant {
    pub(super) async fn sign_up(app: &TestApp) -> Self {
        let slug = format!("t-{}", Uuid::now_v7().simple());
        let admin = format!("admin@{slug}.example");
        let body = json!({
            "tenant": {"name": format!("The firm {slug}"), "slug": slug},
            "email": admin, "password": PASSWORD, "name": format!("Ada of {slug}"),
        });
        let request = app.http.post(format!("{}/api/v1/tenants", app.url)).json(&body);
        let (status, answer) = answer(request).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        let tenant = Self { id: id(&answer["data"]["tenant"]), admin: id(&answer["data"]["user"]), slug };
        let admin = tenant.admin(app).await;
        tenant.create_user(app, &admin, &tenant.email("user"), true).await;
        tenant
    }

    pub(super) fn email(&self, name: &str) -> String {
        format!("{name}@{}.example", self.slug)
    }

    /// The administrator, in a session of their own.
    pub(super) async fn admin(&self, app: &TestApp) -> Caller {
        Caller::sign_in(app, "admin", &self.slug, &self.email("admin")).await
    }

    /// The user, likewise.
    pub(super) async fn user(&self, app: &TestApp) -> Caller {
        Caller::sign_in(app, "user", &self.slug, &self.email("user")).await
    }

    pub(super) async fn create_user(&self, app: &TestApp, by: &Caller, email: &str, password: bool) -> Uuid {
        let mut body = json!({"email": email, "name": format!("Vera of {}", self.slug)});
        if password {
            body["password"] = PASSWORD.into();
        }
        id(&by.post(app, "/api/v1/users", &body).await["data"])
    }

    /// Whether a text tells anything of the tenant.
    pub(super) fn is_told_by(&self, answer: &Answer) -> bool {
        let text = answer.body.to_string();
        text.contains(&self.slug) || text.contains(&self.id.to_string())
    }
}

impl Caller {
    pub(super) async fn sign_in(app: &TestApp, role: &'static str, tenant: &str, email: &str) -> Self {
        let (tenant, email) = (tenant.to_owned(), email.to_owned());
        let mut caller = Self { role, tenant, email, token: String::new() };
        caller.sign_in_again(app).await;
        caller
    }

    /// A super administrator, whose tenant is neither of the two.
    pub(super) async fn super_admin(app: &TestApp) -> Self {
        let (role, tenant, email) = ("super_admin", "system".into(), String::new());
        Self { role, tenant, email, token: app.super_admin().await }
    }

    /// A program, whose key has every scope that an operation asks for.
    pub(super) async fn api_key(app: &TestApp, tenant: &Tenant) -> Self {
        let scopes: BTreeSet<_> = operations().into_iter().filter_map(|operation| operation.scope).collect();
        let body = json!({"name": Uuid::now_v7(), "scopes": scopes});
        let made = tenant.admin(app).await.post(app, "/api/v1/api-keys", &body).await;
        let token = made["data"]["key"].as_str().unwrap().to_owned();
        Self { role: "api_key", tenant: tenant.slug.clone(), email: String::new(), token }
    }

    /// Begins a new session, since the last call has ended the one before.
    pub(super) async fn sign_in_again(&mut self, app: &TestApp) {
        match self.role {
            "api_key" => return,
            "super_admin" => {
                self.token = app.super_admin().await;
                return;
            }
            _ => {}
        }
        let body = json!({"tenant": self.tenant, "email": self.email, "password": PASSWORD});
        let request = app.http.post(format!("{}/api/v1/auth/login", app.url)).json(&body);
        let (status, answer) = answer(request).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        self.token = answer["data"]["token"].as_str().unwrap().to_owned();
    }

    /// A request that succeeds; its answer.
    pub(super) async fn post(&self, app: &TestApp, path: &str, body: &Value) -> Value {
        let request = app.http.post(format!("{}{path}", app.url)).bearer_auth(&self.token).json(body);
        let (status, answer) = answer(request).await;
        assert!(status.is_success(), "{path}: {answer}");
        answer
    }

    /// The operation as its case has it, naming `named`.
    pub(super) fn request(
        &self,
        app: &TestApp,
        operation: &Operation,
        case: &Case,
        named: &str,
    ) -> RequestBuilder {
        let path = operation.path.replace("{id}", named).replace("{project_id}", PROJECT);
        let method: Method = operation.method.parse().unwrap();
        let request = app.http.request(method, format!("{}/api/v1{path}{}", app.url, case.query(named)));
        let request = if self.token.is_empty() { request } else { request.bearer_auth(&self.token) };
        let request = match case.takes_a_version {
            true => {
                request.header("If-Match", (1..9).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", "))
            }
            false => request,
        };
        match case.body(named, &self.tenant) {
            Some(body) if case.signed => {
                let body = body.to_string();
                let signature = signature(WEBHOOK_SECRET, &body, 0);
                let request = request.header("Content-Type", "application/json");
                request.header("Stripe-Signature", signature).body(body)
            }
            Some(body) => request.header("Content-Type", case.content_type).body(body.to_string()),
            None => request,
        }
    }
}

/// The project that those are in who are in one.
pub(super) const PROJECT: &str = "apollo";

/// Signs what Stripe tells in the tests of the walls.
const WEBHOOK_SECRET: &str = "whsec_walls";

/// A node for tenants who can pay, with these flags besides, and the Stripe where they can.
pub(super) async fn node(flags: &[&str]) -> (TestApp, Fake) {
    let fake = Fake::start(Options::default()).await.unwrap();
    let billing = [
        "--plan-seats=pro=100".to_owned(),
        "--rate-limit-ip=off".to_owned(),
        "--stripe-secret-key=sk_test_walls".to_owned(),
        format!("--stripe-api-base={}", fake.url()),
        format!("--stripe-webhook-secrets={WEBHOOK_SECRET}"),
        format!("--stripe-prices={}=pro", price(&fake, "1900")),
    ];
    let all: Vec<_> = billing.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    (TestApp::spawn_with(&all).await, fake)
}

/// Sends it; what must be the same for what is another's and what is nobody's.
pub(super) async fn send(request: RequestBuilder, named: &str) -> Answer {
    let (status, mut body) = answer(request).await;
    blur(&mut body, named);
    Answer { status, body }
}

/// Ids and times differ from request to request, and so does what the request itself has named.
fn blur(value: &mut Value, named: &str) {
    match value {
        Value::String(text) if !named.is_empty() && text == named => *text = "what was named".into(),
        // The ids of tenants stay: they would tell whose it is.
        Value::Object(object) => object.iter_mut().for_each(|(key, value)| match (key.as_str(), &value) {
            ("id" | "request_id" | "trace_id", Value::String(_)) => *value = "an id".into(),
            (_, Value::String(text)) if is_time(text) => *value = "a time".into(),
            _ => blur(value, named),
        }),
        Value::Array(values) => values.iter_mut().for_each(|value| blur(value, named)),
        _ => {}
    }
}

fn is_time(text: &str) -> bool {
    text.len() > 18 && text.ends_with('Z') && text.as_bytes()[10] == b'T'
}

fn id(value: &Value) -> Uuid {
    value["id"].as_str().unwrap_or_else(|| panic!("no id in {value}")).parse().unwrap()
}

/// Reads all there is of a tenant, or of all.
pub(super) struct Dumps {
    database: Client,
    statement: Statement,
}

/// Rows by table.
pub(super) type Dump = BTreeMap<String, Vec<String>>;

impl Dumps {
    pub(super) async fn of(database: Client) -> Self {
        let tables = database
            .query(
                "select a.attrelid::regclass::text, a.attname::text from pg_attribute a join pg_class c on c.oid = a.attrelid
                 where c.relnamespace = 'tenantry'::regnamespace and c.relkind = 'r'
                   and a.attname = case c.relname when 'tenants' then 'id' else 'tenant_id' end",
                &[],
            )
            .await
            .unwrap();
        assert!(tables.len() > 10, "all tables");
        let select = |table: &Row| {
            let (table, tenant): (String, String) = (table.get(0), table.get(1));
            format!(
                "select '{table}', to_jsonb(t)::text from {table} t where $1::uuid is null or t.{tenant} = $1"
            )
        };
        let all = tables.iter().map(select).collect::<Vec<_>>().join(" union all ");
        let statement = database.prepare(&format!("{all} order by 1, 2")).await.unwrap();
        Self { database, statement }
    }

    pub(super) async fn take(&self, tenant: Option<Uuid>) -> Dump {
        let mut dump = Dump::new();
        for row in self.database.query(&self.statement, &[&tenant]).await.unwrap() {
            dump.entry(row.get(0)).or_default().push(row.get(1));
        }
        dump
    }
}

/// The tables that differ: rows hold hashes, which nobody needs to see.
pub(super) fn changed(before: &Dump, after: &Dump) -> Vec<String> {
    let tables: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    tables.into_iter().filter(|table| before.get(*table) != after.get(*table)).cloned().collect()
}
