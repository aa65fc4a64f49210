//! Somebody who has done all that one can do is erased, and then looked for everywhere: in the text of the whole database, in all
//! that Redis holds, in what every process has logged. A `tenantry dev` of its own, so that all of these are at hand.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
};

use deadpool_redis::redis::{self, aio::MultiplexedConnection, cmd};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::{
    app::{PASSWORD, answer, eventually, mails, token_in},
    dev::Dev,
};

/// Everything that runs, and everything that is kept.
struct Stage {
    folder: TempDir,
    dev: Dev,
    http: Client,
    /// Of a superuser.
    database_url: String,
    database: tokio_postgres::Client,
    redis: MultiplexedConnection,
    slug: String,
}

/// Words that are nowhere else.
struct Canary {
    words: Vec<String>,
    email: String,
    /// The address that they have later.
    later: String,
    name: String,
}

impl Canary {
    fn new() -> Self {
        let word = |kind: &str| format!("{kind}{}", &Uuid::new_v4().simple().to_string()[..12]);
        let words = [word("kv"), word("kw"), word("zx"), word("qy")];
        let [local, later, first, last] = &words;
        Self {
            email: format!("{local}@example.org"),
            later: format!("{later}@example.org"),
            name: format!("{first} {last}"),
            words: words.to_vec(),
        }
    }

    fn is_in(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        self.words.iter().any(|word| text.contains(word))
    }
}

impl Stage {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("dev.log")).unwrap();
        let dev = Dev::start_logging(folder.path(), &["--rate-limit-ip=off"], log.into());
        let setting = |name: &str| {
            let (_, rest) = dev.another.split_once(&format!("{name}='")).unwrap();
            rest.split('\'').next().unwrap().to_owned()
        };
        let database_url = setting("DATABASE_URL").replace("tenantry@/", "postgres@/");
        let (database, connection) = tokio_postgres::connect(&database_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let redis = redis::Client::open(setting("REDIS_URL")).unwrap();
        let redis = redis.get_multiplexed_async_connection().await.unwrap();
        let slug = format!("t-{}", Uuid::now_v7().simple());
        Self { folder, http: Client::new(), database_url, database, redis, slug, dev }
    }

    async fn ask(&self, method: Method, path: &str, token: &str, body: &Value) -> (StatusCode, Value) {
        let request = self.http.request(method, format!("{}/api/v1{path}", self.dev.url)).json(body);
        // Each request is named, so that the answers are kept that are.
        let request = request.header("Idempotency-Key", body.to_string().len().to_string() + path);
        answer(if token.is_empty() { request } else { request.bearer_auth(token) }).await
    }

    async fn post(&self, path: &str, token: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(Method::POST, path, token, body).await;
        assert!(status.is_success(), "{path}: {answer}");
        answer["data"].clone()
    }

    async fn sign_in(&self, email: &str) -> String {
        let login = json!({"tenant": self.slug, "email": email, "password": PASSWORD});
        self.post("/auth/login", "", &login).await["token"].as_str().unwrap().to_owned()
    }

    /// The latest mail to an address that leads to a path, when it has come.
    async fn mailed(&self, to: &str, path: &str) -> String {
        let folder = self.folder.path().join(".tenantry/mail");
        let header = format!("To: {to}\r\n");
        let found = || mails(&folder).into_iter().rfind(|mail| mail.contains(&header) && mail.contains(path));
        eventually(Duration::from_secs(3), || async { found().is_some() }).await;
        token_in(&found().unwrap())
    }

    /// The database as text.
    async fn dump(&self) -> String {
        let sql = "select setting from pg_config() where name = 'BINDIR'";
        let folder: String = self.database.query_one(sql, &[]).await.unwrap().get(0);
        let mut command = Command::new(Path::new(&folder).join("pg_dump"));
        let output =
            command.args(["--inserts", &format!("--dbname={}", self.database_url)]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        // What is stored as bytes is written in hexadecimal.
        let bytes = text.split('\'').filter_map(|part| part.strip_prefix("\\x")).map(|hex| {
            let digits: Vec<_> = hex.bytes().collect();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap_or(0);
            String::from_utf8_lossy(&digits.chunks(2).map(byte).collect::<Vec<_>>()).into_owned()
        });
        let bytes: Vec<_> = bytes.collect();
        text + &bytes.join("\n")
    }

    /// Every key of Redis and what it holds.
    async fn held(&self) -> String {
        let (mut redis, mut held, mut cursor) = (self.redis.clone(), vec![], 0_u64);
        loop {
            let (next, keys): (u64, Vec<Vec<u8>>) =
                cmd("SCAN").arg(cursor).arg("COUNT").arg(1000).query_async(&mut redis).await.unwrap();
            for key in keys {
                let kind: String = cmd("TYPE").arg(&key).query_async(&mut redis).await.unwrap();
                let values: Vec<Vec<u8>> = match kind.as_str() {
                    "string" => cmd("GET")
                        .arg(&key)
                        .query_async::<Option<_>>(&mut redis)
                        .await
                        .unwrap()
                        .into_iter()
                        .collect(),
                    "hash" => cmd("HGETALL").arg(&key).query_async(&mut redis).await.unwrap(),
                    // It has ended since.
                    "none" => vec![],
                    kind => panic!("say how to read a {kind}"),
                };
                held.extend([key].into_iter().chain(values));
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&held.join(&b'\n')).into_owned()
    }

    /// What every process has said: the program, PostgreSQL and Redis.
    fn logs(&self) -> String {
        let servers = fs::read_dir(self.folder.path().join(".tenantry/log")).unwrap();
        let servers = servers.map(|entry| entry.unwrap().path());
        let all: Vec<_> = servers
            .chain([self.folder.path().join("dev.log")])
            .map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned())
            .collect();
        assert!(all.len() >= 3, "the program's and the servers'");
        all.join("\n")
    }

    /// Every customer that the fake Stripe has.
    async fn customers(&self) -> String {
        let url = format!("{}/v1/customers?limit=100", self.dev.fake());
        self.http.get(url).bearer_auth("sk_test_fake").send().await.unwrap().text().await.unwrap()
    }

    /// Erases somebody, and waits until the last copy is gone.
    async fn erase(&self, admin: &str, id: &str) {
        let path = format!("/users/{id}/erase");
        let (status, erasure) = self.ask(Method::POST, &path, admin, &json!({})).await;
        assert_eq!(status, StatusCode::OK, "{erasure}");
        eventually(Duration::from_secs(6), || async {
            let (_, erasure) = self.ask(Method::POST, &path, admin, &json!({})).await;
            erasure["data"]["finished_at"].is_string()
        })
        .await;
    }
}

/// Signs up with a tenant; the id.
async fn signs_up(stage: &Stage, canary: &Canary) -> String {
    let sign_up = json!({
        "tenant": {"name": "Acme", "slug": stage.slug}, "email": canary.email, "password": PASSWORD, "name": canary.name,
    });
    let made = stage.post("/auth/register", "", &sign_up).await;
    let verify = stage.mailed(&canary.email, "/verify-email").await;
    stage.ask(Method::POST, "/auth/verify-email", "", &json!({"token": verify})).await;
    made["user"]["id"].as_str().unwrap().to_owned()
}

/// Is invited, accepts, and does what one does.
async fn lives(stage: &Stage, admin: &str, canary: &Canary) -> String {
    stage.post("/invitations", admin, &json!({"emails": [canary.email]})).await;
    let token = stage.mailed(&canary.email, "/accept-invitation").await;
    let accept = json!({"token": token, "name": canary.name, "password": PASSWORD});
    let user = stage.post("/invitations/accept", "", &accept).await;
    let id = user["id"].as_str().unwrap().to_owned();

    let wrong = json!({"tenant": stage.slug, "email": canary.email, "password": "Wrong-Horse-1"});
    assert_eq!(stage.ask(Method::POST, "/auth/login", "", &wrong).await.0, StatusCode::UNAUTHORIZED);
    let mut theirs = stage.sign_in(&canary.email).await;
    let known = json!({"tenant": stage.slug, "email": canary.email});
    stage.post("/auth/forgot-password", "", &known).await;
    let reset = stage.mailed(&canary.email, "/reset-password").await;
    let reset = json!({"token": reset, "password": PASSWORD});
    assert!(stage.ask(Method::POST, "/auth/reset-password", "", &reset).await.0.is_success());
    theirs = if theirs.is_empty() { theirs } else { stage.sign_in(&canary.email).await };
    let change = json!({"name": canary.name.to_uppercase(), "email": canary.later});
    let (status, changed) = stage.ask(Method::PATCH, &format!("/users/{id}"), &theirs, &change).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    let prove = stage.mailed(&canary.later, "/verify-email").await;
    assert!(stage.ask(Method::POST, "/auth/verify-email", "", &json!({"token": prove})).await.0.is_success());
    theirs = stage.sign_in(&canary.later).await;
    stage.post("/auth/totp", &theirs, &json!({"current_password": PASSWORD})).await;

    // Asked for in every way: by id, by address, in lists, in vain.
    let nothing = json!({});
    for path in [
        format!("/users/{id}"),
        format!("/users/lookup?email={}", canary.later),
        format!("/users?search={}", canary.later),
        "/users?sort_by=email".into(),
        "/users/export?format=csv".into(),
        format!("/users/{id}/data"),
    ] {
        let (status, found) = stage.ask(Method::GET, &path, admin, &nothing).await;
        assert_eq!(status, StatusCode::OK, "{path}: {found}");
    }
    let taken = json!({"email": canary.later, "name": canary.name, "role": "user"});
    assert_eq!(stage.ask(Method::POST, "/users", admin, &taken).await.0, StatusCode::CONFLICT);
    let many = json!({"users": [{"email": canary.later, "name": canary.name}, {"email": format!("x-{id}@example.org"), "name": "X"}]});
    stage.post("/users/bulk", admin, &many).await;
    id
}

/// What other programs, and versions of before, may have left: more in a job than its id, words in the trail.
async fn is_told_of(stage: &Stage, id: &str, canary: &Canary) {
    let sql = "with owner as (select tenant_id, id from tenantry.users where id::text = $1),
      mailed as (
        insert into tenantry.jobs (tenant_id, kind, payload, max_attempts, state, finished_at, last_error)
        select tenant_id, 'verify_email', jsonb_build_object('user_id', id, 'to', $2::text), 25, 'dead', now(), 'refused: <' || $2 || '>'
        from owner
      ), other as (
        insert into tenantry.jobs (tenant_id, kind, payload, max_attempts, state, finished_at, last_error, history, unique_key)
        select tenant_id, 'sync_subscription', jsonb_build_object('subscription_id', 'none', 'by', upper($2::text)), 25, 'dead',
          now(), 'asked for by ' || $2, jsonb_build_array(jsonb_build_object('error', $2::text)), 'mail ' || $2 from owner
      )
      insert into tenantry.audit_events (tenant_id, actor_id, address, action, subject_id, detail)
      select tenant_id, id, '192.0.2.0/24', 'user.updated', id,
        jsonb_build_object('before', $2::text, 'after', jsonb_build_array($2::text)) from owner";
    stage.database.execute(sql, &[&id, &canary.later]).await.unwrap();
}

#[tokio::test]
async fn nothing_tells_of_who_was_erased() {
    let stage = Stage::begin().await;
    let (founder, member) = (Canary::new(), Canary::new());
    let founder_id = signs_up(&stage, &founder).await;
    let first = stage.sign_in(&founder.email).await;
    let admin = json!({"email": "admin@acme.example", "name": "Somebody Else", "password": PASSWORD, "role": "admin"});
    stage.post("/users", &first, &admin).await;
    let admin = stage.sign_in("admin@acme.example").await;
    let member_id = lives(&stage, &admin, &member).await;
    is_told_of(&stage, &member_id, &member).await;
    // They are in everything that is looked into below, but for logs, where nobody ever is.
    let (dump, held) = (stage.dump().await, stage.held().await);
    for canary in [&founder, &member] {
        assert!(canary.is_in(&dump), "the database knows them");
    }
    assert!(member.is_in(&held), "Redis holds the one who was asked for last");
    assert!(dump.contains("192.0.2.0/24"));
    eventually(Duration::from_secs(3), || async { founder.is_in(&stage.customers().await) }).await;

    stage.erase(&admin, &member_id).await;
    stage.erase(&admin, &founder_id).await;

    let (dump, held, logs) = (stage.dump().await, stage.held().await, stage.logs());
    assert!(
        dump.contains(&member_id) && held.len() > 100 && logs.contains("/api/v1/users"),
        "something was looked into"
    );
    for (who, canary) in [("founder", &founder), ("member", &member)] {
        for (place, text) in [("database", &dump), ("Redis", &held), ("logs", &logs)] {
            let lines: Vec<_> = text.lines().filter(|line| canary.is_in(line)).collect();
            assert!(lines.is_empty(), "the {place} tells of the {who}: {lines:#?}");
        }
    }
    assert!(!dump.contains("192.0.2.0/24"), "nor from where they came");
    // Invoices go to who is the first administrator now.
    let customers = stage.customers().await;
    assert!(!founder.is_in(&customers) && customers.contains("admin@acme.example"), "{customers}");
    let (status, _) = stage.ask(Method::GET, &format!("/users/{member_id}"), &admin, &json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
