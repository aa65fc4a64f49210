//! Requests and answers: errors, lists, idempotency, faults.

use std::time::Instant;

use serde_json::{Value, json};
use tenantry_fake_stripe::Options;

use crate::stage::{Stage, faults, id};

async fn stage() -> Stage {
    Stage::new(Options::default()).await
}

fn error(answer: &(u16, Value)) -> (u16, &str, &str, &str) {
    let error = &answer.1["error"];
    let text = |field: &str| error[field].as_str().unwrap_or_default();
    (answer.0, text("type"), text("code"), text("param"))
}

#[tokio::test]
async fn what_is_wrong_is_said_as_stripe_says_it() {
    let stage = stage().await;
    let (price, customer) = (stage.price(&[]), stage.customer(None, &[]));
    let invalid = "invalid_request_error";
    let wrong = [
        ("GET", "/v1/customers/cus_0".to_owned(), "", (404, invalid, "resource_missing", "id")),
        ("GET", "/v1/customers?limit=0".to_owned(), "", (400, invalid, "parameter_invalid_integer", "limit")),
        (
            "GET",
            "/v1/customers?starting_after=cus_0".to_owned(),
            "",
            (400, invalid, "resource_missing", "starting_after"),
        ),
        ("GET", format!("/v1/customers/{customer}?expand[]=object"), "", (400, invalid, "", "expand")),
        ("GET", format!("/v1/customers/{customer}?expand[]=nothing"), "", (400, invalid, "", "expand")),
        ("GET", "/v1/charges".to_owned(), "", (404, invalid, "", "")),
        ("POST", "/v1/products".to_owned(), "name=", (400, invalid, "parameter_missing", "name")),
        ("POST", "/v1/products".to_owned(), "name=a&nmae=b", (400, invalid, "parameter_unknown", "nmae")),
        ("POST", "/v1/products".to_owned(), "name[a]=b", (400, invalid, "", "name")),
        ("POST", "/v1/products".to_owned(), "name=%zz", (400, invalid, "", "")),
        (
            "POST",
            "/v1/subscriptions".to_owned(),
            "customer=cus_0&items[0][price]=x",
            (400, invalid, "resource_missing", "customer"),
        ),
        (
            "POST",
            "/v1/subscriptions".to_owned(),
            &*format!("customer={customer}&items[0][price]=price_0"),
            (400, invalid, "resource_missing", "items[0][price]"),
        ),
        (
            "POST",
            "/v1/subscriptions".to_owned(),
            &*format!("customer={customer}&items[0][price]={price}&items[0][quantity]=many"),
            (400, invalid, "parameter_invalid_integer", "items[0][quantity]"),
        ),
        // Nobody pays.
        (
            "POST",
            "/v1/subscriptions".to_owned(),
            &*format!("customer={customer}&items[0][price]={price}"),
            (400, invalid, "resource_missing", ""),
        ),
    ];
    let before = stage.fake.truth();
    for (method, path, form, wanted) in wrong {
        let answer = stage.ask(method, &path, form, None).await;
        let found = error(&answer);
        assert_eq!(found, wanted, "{method} {path} {form}: {}", answer.1);
    }
    assert_eq!(stage.fake.truth(), before);
}

#[tokio::test]
async fn nobody_comes_in_without_a_key_or_with_an_old_version() {
    let stage = Stage::new(Options { api_key: Some("sk_test_ours".to_owned()), ..Options::default() }).await;
    let url = format!("{}/v1/customers", stage.fake.url());
    let ask = |request: reqwest::RequestBuilder| async { request.send().await.unwrap() };

    assert_eq!(ask(stage.http.get(&url)).await.status(), 401);
    assert_eq!(ask(stage.http.get(&url).bearer_auth("sk_test_other")).await.status(), 401);
    assert_eq!(ask(stage.http.get(&url).basic_auth("sk_test_ours", Some(""))).await.status(), 200);
    let ours = || stage.http.get(&url).bearer_auth("sk_test_ours");
    assert_eq!(ask(ours().header("stripe-version", "2024-06-20")).await.status(), 400);
    let answer = ask(ours().header("stripe-version", "2025-09-30.clover")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["stripe-version"]),
        (200, &"2025-09-30.clover".parse().unwrap())
    );
    assert!(answer.headers()["request-id"].to_str().unwrap().starts_with("req_"));
    let json = ask(stage.http.post(&url).bearer_auth("sk_test_ours").json(&json!({"name": "a"}))).await;
    assert_eq!(json.status(), 400);
}

#[tokio::test]
async fn lists_come_by_page_and_by_time_newest_first() {
    let stage = stage().await;
    let made: Vec<String> = (0..5).map(|n| stage.customer(None, &[("name", &n.to_string())])).collect();
    let page = |query: String| {
        let stage = &stage;
        async move {
            let (status, list) = stage.ask("GET", &format!("/v1/customers?{query}"), "", None).await;
            assert_eq!(
                (status, &list["object"], &list["url"]),
                (200, &json!("list"), &json!("/v1/customers"))
            );
            let ids: Vec<String> = list["data"].as_array().unwrap().iter().map(id).collect();
            (ids, list["has_more"] == true)
        }
    };
    let newest_first: Vec<String> = made.iter().rev().cloned().collect();

    assert_eq!(page("limit=2".to_owned()).await, (newest_first[..2].to_vec(), true));
    let after = page(format!("limit=3&starting_after={}", newest_first[1])).await;
    assert_eq!(after, (newest_first[2..].to_vec(), false));
    let before = page(format!("limit=2&ending_before={}", newest_first[3])).await;
    assert_eq!(before, (newest_first[1..3].to_vec(), true));
    let before = page(format!("limit=2&ending_before={}", newest_first[2])).await;
    assert_eq!(before, (newest_first[..2].to_vec(), false));
    let created = stage.get(&format!("/v1/customers/{}", made[0]))["created"].as_i64().unwrap();
    assert_eq!(page(format!("created[lt]={created}")).await.0.len(), 0);
    assert_eq!(page(format!("created[gte]={created}&created[lt]={}", created + 100)).await.0.len(), 5);
    assert_eq!(page("starting_after=".to_owned() + &made[0]).await, (vec![], false));
}

#[tokio::test]
async fn what_is_gone_marks_no_place_in_a_list() {
    let stage = stage().await;
    let price = stage.price(&[]);
    let made: Vec<String> = (0..3).map(|_| stage.customer(Some("pm_card_visa"), &[])).collect();
    let ask = |path: String| {
        let stage = &stage;
        async move { stage.ask("GET", &path, "", None).await }
    };
    let missing = (400, "invalid_request_error", "resource_missing", "starting_after");
    stage.ask("DELETE", &format!("/v1/customers/{}", made[1]), "", None).await;

    let customers = |parameters: String| ask(format!("/v1/customers?{parameters}"));
    assert_eq!(error(&customers(format!("starting_after={}", made[1])).await), missing);
    let (status, rest) = customers(format!("starting_after={}", made[2])).await;
    assert_eq!((status, id(&rest["data"][0])), (200, made[0].clone()));

    // A list of those that are alive does not go on from one that no longer is; one of all does.
    let form = format!("customer={}&items[0][price]={price}", made[0]);
    let subscription = id(&stage.ask("POST", "/v1/subscriptions", &form, None).await.1);
    stage.ask("DELETE", &format!("/v1/subscriptions/{subscription}"), "", None).await;
    let after = |more: &str| ask(format!("/v1/subscriptions?starting_after={subscription}{more}"));
    assert_eq!(error(&after("").await), missing);
    assert_eq!(after("&status=all").await.0, 200);

    // Events are listed for 30 days.
    let event = id(&stage.get("/v1/events")["data"][0]);
    let after = || ask(format!("/v1/events?starting_after={event}"));
    assert_eq!(after().await.0, 200);
    stage.fake.advance(31 * 86_400);
    assert_eq!(error(&after().await), missing);
}

#[tokio::test]
async fn a_key_makes_it_happen_once() {
    let stage = stage().await;
    let create = |form: &'static str, key: &'static str| stage.ask("POST", "/v1/customers", form, Some(key));

    let first = create("name=a", "one").await;
    assert_eq!(create("name=a", "one").await, first);
    assert_eq!(error(&create("name=b", "one").await).1, "idempotency_error");
    let elsewhere = stage.ask("POST", "/v1/products", "name=a", Some("one")).await;
    assert_eq!(error(&elsewhere).1, "idempotency_error");
    // What was refused before anything was done is not kept.
    assert_eq!(create("nmae=a", "two").await.0, 400);
    assert_eq!(create("name=a", "two").await.0, 200);
    assert_eq!(stage.get("/v1/customers")["data"].as_array().unwrap().len(), 2);
    // A day later the key is forgotten.
    stage.fake.advance(86_400);
    assert_ne!(create("name=a", "one").await, first);
}

#[tokio::test]
async fn an_answer_that_is_lost_comes_again_under_its_key() {
    let stage = stage().await;
    let url = format!("{}/v1/customers", stage.fake.url());
    let create = |key: &'static str| {
        let request = stage.http.post(&url).bearer_auth("sk_test_1").header("idempotency-key", key);
        request.body("name=a").send()
    };
    stage.fake.set_faults(faults(json!({"api": {"cut": 1.0}}))).unwrap();
    assert!(create("before").await.is_err());
    stage.fake.set_faults(faults(json!({"api": {"cut_after": 1.0}}))).unwrap();
    assert!(create("after").await.is_err());
    stage.fake.set_faults(faults(json!({"api": {"failed_after": 1.0}}))).unwrap();
    assert_eq!(create("failed").await.unwrap().status(), 500);
    stage.fake.set_faults(faults(json!({}))).unwrap();
    let count = || stage.get("/v1/customers")["data"].as_array().unwrap().len();
    assert_eq!(count(), 2);

    let again = create("after").await.unwrap();
    assert_eq!(
        (again.status().as_u16(), &again.headers()["idempotent-replayed"]),
        (200, &"true".parse().unwrap())
    );
    // Stripe keeps a 500, too.
    assert_eq!(create("failed").await.unwrap().status(), 500);
    assert_eq!(count(), 2);
    assert_eq!(create("before").await.unwrap().status(), 200);
    assert_eq!(count(), 3);
}

#[tokio::test]
async fn a_copy_that_lags_tells_what_was() {
    let stage = stage().await;
    let customer = stage.customer(Some("pm_card_visa"), &[]);
    let subscription = stage.subscribe(&customer, &stage.price(&[]), &[]);
    let path = format!("/v1/subscriptions/{}", id(&subscription));
    let asked = async || stage.ask("GET", &path, "", None).await;
    stage.fake.set_faults(faults(json!({"api": {"stale": 1.0, "stale_seconds": 100}}))).unwrap();
    let (status, error) = asked().await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("resource_missing")), "not copied yet");

    stage.fake.advance(60);
    stage.post(&path, &[("metadata[n]", "1")]);
    stage.fake.advance(60);
    assert_eq!(asked().await.1["metadata"], json!({}), "as it was made");
    stage.fake.set_faults(faults(json!({}))).unwrap();
    assert_eq!(asked().await.1["metadata"], json!({"n": "1"}));
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_key_in_flight() {
    let stage = stage().await;
    stage.fake.set_faults(faults(json!({"api": {"latency_ms": [200, 200]}}))).unwrap();
    let url = format!("{}/v1/customers", stage.fake.url());
    let create =
        || stage.http.post(&url).bearer_auth("sk_test_1").header("idempotency-key", "k").body("name=a");
    let first = tokio::spawn(create().send());
    while stage.fake.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());

    // Until the first is done the answer is a conflict.
    let answer = loop {
        let answer = create().send().await.unwrap();
        if answer.status() != 409 {
            break answer;
        }
    };
    assert!(answer.status() == 200 && answer.headers().contains_key("idempotent-replayed"));
}

#[tokio::test]
async fn faults_come_in_the_shares_that_were_asked_for() {
    let stage = stage().await;
    let shares = json!({"seed": 3, "api": {"rate_limited": 0.2, "failed": 0.25}});
    let statuses = || async {
        stage.fake.set_faults(faults(shares.clone())).unwrap();
        let mut statuses = vec![];
        for _ in 0..200 {
            statuses.push(stage.ask("GET", "/v1/prices", "", None).await.0);
        }
        statuses
    };
    let first = statuses().await;
    let count = |status: u16| first.iter().filter(|one| **one == status).count();
    assert!((20..60).contains(&count(429)) && (20..60).contains(&count(500)), "{first:?}");
    assert_eq!(count(200) + count(429) + count(500), 200);
    // The same seed, the same faults.
    assert_eq!(statuses().await, first);
    assert_eq!(stage.fake.requests()["GET /v1/prices"], 400);

    assert!(stage.fake.set_faults(faults(json!({"api": {"failed": 2.0}}))).is_err());
    assert!(stage.fake.set_faults(faults(json!({"webhooks": {"copies": [3, 1]}}))).is_err());
    let typo = stage.http.post(format!("{}/_fake/faults", stage.fake.url())).body(r#"{"api": {"faild": 1}}"#);
    assert_eq!(typo.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn more_requests_than_are_allowed_in_a_second_are_too_many() {
    let stage = stage().await;
    stage.fake.set_faults(faults(json!({"api": {"per_second": 5}}))).unwrap();
    let begin = Instant::now();
    let answers = (0..60).map(|_| stage.ask("GET", "/v1/prices", "", None));
    let answers = futures_util::future::join_all(answers).await;
    let most = 5 * (begin.elapsed().as_secs() as usize + 1);
    let fine = answers.iter().filter(|(status, _)| *status == 200).count();
    assert!((5..=most).contains(&fine) && fine < 60, "{fine}");
    assert!(answers.iter().all(|(status, _)| [200, 429].contains(status)));
}

#[tokio::test]
async fn ids_are_the_same_under_a_seed_and_others_without() {
    let made = async |seed: Option<u64>| {
        let defaults = Options::default();
        let stage = Stage::new(Options { seed: seed.unwrap_or(defaults.seed), ..defaults }).await;
        [stage.price(&[]), stage.customer(None, &[])]
    };
    assert_eq!(made(Some(1)).await, made(Some(1)).await);
    assert_ne!(made(Some(1)).await, made(Some(2)).await);
    assert_ne!(made(None).await, made(None).await);
}

#[tokio::test]
async fn it_can_be_cleared_and_ends_when_it_is_dropped() {
    let stage = stage().await;
    let customer = stage.customer(Some("visa"), &[]);
    stage.subscribe(&customer, &stage.price(&[]), &[]);
    assert_eq!(stage.fake.truth().len(), 1);
    stage.control("clear", json!({})).await;
    assert_eq!((stage.fake.truth().len(), stage.kinds().len()), (0, 0));
    assert_ne!(stage.customer(None, &[]), customer);

    let Stage { fake, http } = stage;
    let url = format!("{}/v1/customers", fake.url());
    drop(fake);
    assert!(http.get(&url).send().await.is_err());
}
