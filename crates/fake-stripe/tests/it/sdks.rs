//! What others wrote: Stripe's own libraries talk to the fake, check its signatures, and hold its objects to their types.
//! `scripts/clients` installs them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tenantry_fake_stripe::{Dunning, Fake, Options};

use crate::stage::{Stage, id};

const DAY: i64 = 86_400;

/// Where `scripts/clients` has put the libraries.
fn tools() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_fake-stripe")).ancestors().nth(2).unwrap();
    let tools = target.join("tools");
    let there =
        tools.join("stripe-python.installed").exists() && tools.join("stripe-node.installed").exists();
    assert!(there, "run scripts/clients first");
    tools
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/stripe").join(name)
}

fn python(name: &str, argument: &str) -> Command {
    let mut command = Command::new(tools().join("stripe-python/bin/python"));
    command.arg(script(name)).arg(argument);
    command
}

fn node(name: &str, argument: &str) -> Command {
    // A module is looked for beside the script.
    let about = Path::new(argument).file_stem().unwrap().display();
    let copy = tools().join("stripe-node").join(format!("{}-{about}-{name}", std::process::id()));
    std::fs::copy(script(name), &copy).unwrap();
    let mut command = Command::new("node");
    command.arg(copy).arg(argument);
    command
}

/// Runs it to its end; what it said.
async fn run(mut command: Command) -> Result<String, String> {
    let output = tokio::task::spawn_blocking(move || {
        let output = command.output();
        if command.get_program() == "node" {
            let _ = std::fs::remove_file(command.get_args().next().unwrap());
        }
        output
    });
    let output = output.await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test]
async fn the_library_for_python_takes_it_for_stripe() {
    let fake = Fake::start(Options::default()).await.unwrap();
    let said = run(python("sdk.py", &fake.url())).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(said.starts_with("ok: stripe 16."), "{said}");
}

#[tokio::test]
async fn the_library_for_node_takes_it_for_stripe() {
    let fake = Fake::start(Options::default()).await.unwrap();
    let said = run(node("sdk.mjs", &fake.url())).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(said.starts_with("ok: stripe 23."), "{said}");
}

/// One that drives nothing of ours, and is only run: PyPI's `localstripe` signs as Stripe does.
#[tokio::test]
async fn somebody_elses_fake_can_be_driven_as_well() {
    let said = run(python("localstripe.py", "")).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(said.starts_with("ok: localstripe"), "{said}");
}

/// What both libraries say to objects.
async fn judge(objects: &[Value]) -> [Result<String, String>; 2] {
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(file.path(), json!(objects).to_string()).unwrap();
    let path = file.path().to_str().unwrap();
    let (by_python, by_node) = tokio::join!(run(python("shapes.py", path)), run(node("shapes.mjs", path)));
    [by_python, by_node]
}

#[tokio::test]
async fn its_objects_are_of_the_types_that_both_libraries_have() {
    for verdict in judge(&objects().await).await {
        verdict.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test]
async fn an_object_that_is_not_of_its_type_is_found_by_both_libraries() {
    type Plant = (&'static str, &'static str, fn(&mut Value));
    let plants: [Plant; 4] = [
        ("plan_name", "subscription", |all| all["plan_name"] = json!("x")),
        ("start_date", "subscription", |all| drop(all.as_object_mut().unwrap().remove("start_date"))),
        ("half_paid", "invoice", |all| all["status"] = json!("half_paid")),
        ("current_period_begin", "subscription", |all| {
            all["items"]["data"][0]["current_period_begin"] = json!(1)
        }),
    ];
    // A status is missing besides.
    let mut wrong: Vec<Value> =
        objects().await.into_iter().filter(|object| object["status"] != "unpaid").collect();
    for (_, kind, plant) in plants {
        let mut planted = wrong.iter().find(|object| object["object"] == kind).unwrap().clone();
        plant(&mut planted);
        wrong.push(planted);
    }
    for verdict in judge(&wrong).await {
        let said = verdict.unwrap_err();
        for word in plants.iter().map(|(word, _, _)| *word).chain(["unpaid"]) {
            assert!(said.contains(word), "{word} in {said}");
        }
    }
}

/// Objects of every kind, and subscriptions in every status, as they come to be: no status is forced.
async fn objects() -> Vec<Value> {
    let stage = Stage::new(Options { dunning: Dunning::Unpaid, ..Options::default() }).await;
    stage.post("/v1/webhook_endpoints", &[("url", "http://127.0.0.1:9/"), ("enabled_events[]", "*")]);
    let (month, year) =
        (stage.price(&[]), stage.price(&[("recurring[interval]", "year"), ("lookup_key", "year")]));
    let now = 1_790_000_000;
    let on_clock = |card: Option<&str>, more: &[(&str, &str)]| {
        let (customer, clock) = stage.traveller(card, now);
        (stage.subscribe(&customer, &month, more), clock)
    };
    let statuses = [
        on_clock(Some("visa"), &[("cancel_at_period_end", "true"), ("metadata[a]", "b")]),
        on_clock(Some("visa"), &[("trial_period_days", "20")]),
        on_clock(Some("chargeCustomerFail"), &[]),
        on_clock(
            None,
            &[("trial_period_days", "1"), ("trial_settings[end_behavior][missing_payment_method]", "pause")],
        ),
        on_clock(
            None,
            &[("trial_period_days", "1"), ("trial_settings[end_behavior][missing_payment_method]", "cancel")],
        ),
        on_clock(None, &[("trial_period_days", "1")]),
        on_clock(None, &[("trial_period_days", "1")]),
        on_clock(None, &[("collection_method", "send_invoice"), ("days_until_due", "30")]),
    ];
    // The last but one is past due two days after, the one before is given up after its last attempt.
    for (n, (_, clock)) in statuses.iter().enumerate() {
        stage.travel(clock, now + if n == 5 { 20 * DAY } else { 2 * DAY });
    }
    let (customer, _) = stage.traveller(Some("chargeCustomerFail"), now);
    stage.subscribe(&customer, &month, &[]);

    let customer = stage.customer(
        Some("visa"),
        &[
            ("email", "a@example.org"),
            ("address[line1]", "1"),
            ("shipping[name]", "A"),
            ("shipping[address][city]", "B"),
        ],
    );
    let subscription = stage.subscribe(&customer, &month, &[("items[1][price]", &stage.price(&[]))]);
    let path = format!("/v1/subscriptions/{}", id(&subscription));
    stage.post(
        &path,
        &[("pause_collection[behavior]", "keep_as_draft"), ("pause_collection[resumes_at]", "1900000000")],
    );
    stage.post("/v1/subscription_schedules", &[("from_subscription", &id(&subscription))]);
    let session = stage.post(
        "/v1/checkout/sessions",
        &[
            ("mode", "subscription"),
            ("line_items[0][price]", &year),
            ("success_url", "https://example.org"),
            ("client_reference_id", "t"),
        ],
    );
    let other = stage.post(
        "/v1/checkout/sessions",
        &[("mode", "subscription"), ("line_items[0][price]", &year), ("success_url", "https://example.org")],
    );
    let paid = stage.http.post(session["url"].as_str().unwrap()).body("action=pay").send().await.unwrap();
    assert_eq!(paid.status(), 303);
    stage.post(&format!("/v1/checkout/sessions/{}/expire", id(&other)), &[]);
    let portal = stage.post("/v1/billing_portal/sessions", &[("customer", &customer)]);
    let gone = stage.customer(None, &[]);
    let mut all = vec![portal, stage.call("DELETE", &format!("/v1/customers/{gone}"), &[])];
    all.push(stage.call(
        "GET",
        &format!("/v1/checkout/sessions/{}", id(&session)),
        &[
            ("expand[]", "line_items"),
            ("expand[]", "subscription"),
            ("expand[]", "invoice"),
            ("expand[]", "customer"),
        ],
    ));
    let lists = [
        "customers",
        "products",
        "prices",
        "subscriptions",
        "subscription_schedules",
        "invoices",
        "checkout/sessions",
        "events",
        "webhook_endpoints",
        "test_helpers/test_clocks",
        "payment_methods",
    ];
    for list in lists {
        let mut parameters = vec![("limit", "100")];
        if list == "subscriptions" {
            parameters.push(("status", "all"));
        }
        let page = stage.call("GET", &format!("/v1/{list}"), &parameters);
        all.extend(page["data"].as_array().unwrap().iter().cloned());
    }
    let seen = |status: &str| all.iter().any(|o| o["object"] == "subscription" && o["status"] == status);
    for status in
        ["incomplete", "incomplete_expired", "trialing", "active", "past_due", "canceled", "unpaid", "paused"]
    {
        assert!(seen(status), "{status}");
    }
    all
}
