//! What `tenantry check` says of Stripe.

use serde_json::json;
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};

use super::{Stage, id};
use crate::cli::tenantry;

impl Stage {
    /// Settings with which all is well.
    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("STRIPE_SECRET_KEY", "sk_test_hidden".into()),
            ("STRIPE_API_BASE", self.fake.url()),
            ("STRIPE_WEBHOOK_SECRETS", "whsec_old,whsec_hidden".into()),
            ("STRIPE_PRICES", format!("{}=pro,{}=enterprise/seat", self.prices[1], self.prices[2])),
        ]
    }

    /// Its lines about Stripe, with one setting different.
    async fn check(&self, variable: &'static str, value: &str) -> Vec<String> {
        let mut settings = self.settings();
        settings.retain(|(name, _)| *name != variable);
        settings.push((variable, value.to_owned()));
        // The program runs beside, and asks the fake that is in this process.
        let output = tokio::task::spawn_blocking(move || {
            let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
            tenantry(&["check"], &settings)
        });
        let output = output.await.unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert!(!said.contains("hidden"), "{said}");
        let about = |line: &&str| {
            ["stripe", "prices", "webhooks"].contains(&line.split_whitespace().nth(1).unwrap_or_default())
        };
        said.lines().filter(about).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// That one line says this, and all others are well.
    async fn is_wrong(&self, variable: &'static str, value: &str, line: &str, why: &str) {
        let lines = self.check(variable, value).await;
        let wrong: Vec<_> = lines.iter().filter(|line| line.starts_with("WRONG")).collect();
        assert_eq!(wrong.len(), 1, "{variable}={value}: {lines:?}");
        assert!(wrong[0].starts_with(&format!("WRONG {line} ")) && wrong[0].contains(why), "{wrong:?}");
    }
}

#[tokio::test]
async fn check_says_that_tenants_could_pay() {
    let stage = Stage::new().await;
    let [_, pro, enterprise] = &stage.prices[..] else { panic!("three prices") };

    let lines = stage.check("STRIPE_API_BASE", &stage.fake.url()).await;

    let (stripe, webhooks) = (
        format!("ok stripe {} answers, test mode, version 2025-09-30.clover", stage.fake.url()),
        "ok webhooks 2 signing secrets".to_owned(),
    );
    let mut prices = [format!("{pro} pro"), format!("{enterprise} enterprise/seat")];
    prices.sort();
    assert_eq!(lines, [stripe, format!("ok prices {}", prices.join(", ")), webhooks]);
    let output = tenantry(&["check"], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("ok     stripe       no STRIPE_SECRET_KEY"), "{said}");
    stage.is_wrong("STRIPE_SECRET_KEY", "", "stripe", "STRIPE_SECRET_KEY is not set").await;
}

#[tokio::test]
async fn check_says_why_stripe_does_not_do() {
    let stage = Stage::new().await;
    for (variable, value, line, why) in [
        (
            "STRIPE_SECRET_KEY",
            "pk_test_hidden",
            "stripe",
            "401: Invalid API Key provided; is STRIPE_SECRET_KEY",
        ),
        ("STRIPE_API_BASE", "http://127.0.0.1:1", "stripe", "is STRIPE_API_BASE right?"),
        ("STRIPE_API_BASE", stage.app.url.as_str(), "stripe", "is STRIPE_API_BASE right?"),
        ("STRIPE_WEBHOOK_SECRETS", "", "webhooks", "STRIPE_WEBHOOK_SECRETS is not set"),
        ("STRIPE_WEBHOOK_SECRETS", ",", "webhooks", "STRIPE_WEBHOOK_SECRETS is not set"),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_a,sk_test_hidden", "webhooks", "begins with whsec_"),
        ("STRIPE_PRICES", "", "prices", "STRIPE_PRICES is not set"),
        ("STRIPE_PRICES", "price_0=pro", "prices", "there is no price_0"),
        // One pays nothing where nothing is real.
        ("STRIPE_SECRET_KEY", "sk_live_hidden", "prices", "is of test mode, and the key is not"),
    ] {
        stage.is_wrong(variable, value, line, why).await;
    }
    for (faults, why) in [
        (ApiFaults { failed: 1.0, ..ApiFaults::default() }, "stripe answered 500; try again"),
        (ApiFaults { rate_limited: 1.0, ..ApiFaults::default() }, "stripe answered 429; others use up"),
        (ApiFaults { latency_ms: (9_000, 9_000), ..ApiFaults::default() }, "no answer within 3 s"),
    ] {
        stage.faults(faults, WebhookFaults::default());
        stage.is_wrong("STRIPE_API_BASE", &stage.fake.url(), "stripe", why).await;
    }
}

#[tokio::test]
async fn check_says_which_prices_nobody_can_subscribe_to() {
    let stage = Stage::new().await;
    let pro = stage.prices[1].as_str();
    let once = [("currency", "eur"), ("unit_amount", "900"), ("product_data[name]", "Once")];
    let once = id(&stage.call("POST", "/v1/prices", &once));
    stage.is_wrong("STRIPE_PRICES", &format!("{once}=pro"), "prices", "is paid once").await;

    stage.call("POST", &format!("/v1/prices/{pro}"), &[("active", "false")]);
    let alone = format!("{pro}=pro");
    stage.is_wrong("STRIPE_PRICES", &alone, "prices", &format!("{pro} is archived")).await;
    let both = format!("{pro}=pro,price_0=enterprise,{once}=basic");
    for why in [format!("{pro} is archived"), "there is no price_0".into(), format!("{once} is paid once")] {
        stage.is_wrong("STRIPE_PRICES", &both, "prices", &why).await;
    }

    // Those who have it keep it, and others get another.
    let mut pair = [pro.to_owned(), stage.prices[2].clone()];
    pair.sort();
    let [first, second] = &pair;
    let active = |price: &str, yes: bool| {
        stage.call("POST", &format!("/v1/prices/{price}"), &[("active", &json!(yes).to_string())])
    };
    active(first, true);
    active(second, false);
    let lines = stage.check("STRIPE_PRICES", &format!("{second}=pro,{first}=pro")).await;
    let line = format!("ok prices {first} pro, {second} pro (archived: nobody new gets it)");
    assert!(lines.contains(&line), "{lines:?}");
}
