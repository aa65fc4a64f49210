//! The names in `deploy/` are the program's: metrics, settings and runbooks. That the files are valid: `scripts/deploy`.

use std::{collections::BTreeSet, fs};

use crate::docs::{metrics, root};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The words of a text that consist of such characters.
fn words(text: &str, of: fn(char) -> bool) -> impl Iterator<Item = &str> {
    text.split(move |c| !of(c)).filter(|word| !word.is_empty())
}

/// The metrics that a text speaks of, a histogram's parts by its own name.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let of_ours =
        words(text, |c| c == '_' || c.is_ascii_lowercase()).filter(|word| word.starts_with("tenantry_"));
    let parts = ["_bucket", "_sum", "_count"];
    of_ours.map(|name| parts.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)).collect()
}

#[test]
fn alerts_and_the_dashboard_ask_for_metrics_that_there_are() {
    let told = metrics();
    for (file, least) in [
        ("deploy/prometheus/alerts.yaml", 15),
        ("deploy/prometheus/alerts.test.yaml", 15),
        ("deploy/grafana/tenantry.json", 20),
    ] {
        let text = read(file);
        let asked = metrics_in(&text);
        assert!(asked.len() >= least, "{file}: {asked:?}");
        let unknown: Vec<_> = asked.iter().filter(|name| !told.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
}

#[test]
fn every_alert_has_a_runbook_and_a_test() {
    let (rules, tests, runbooks) = (
        read("deploy/prometheus/alerts.yaml"),
        read("deploy/prometheus/alerts.test.yaml"),
        read("docs/runbooks.md"),
    );
    let alerts: BTreeSet<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let runbooks: BTreeSet<_> =
        runbooks.lines().filter_map(|line| line.strip_prefix("## Tenantry")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(
        alerts.iter().filter_map(|name| name.strip_prefix("Tenantry")).collect::<BTreeSet<_>>(),
        runbooks
    );
    for alert in alerts {
        let reference = format!("docs/runbooks.md#{}", alert.to_lowercase());
        assert!(rules.lines().any(|line| line.ends_with(&reference)), "{alert} names its runbook");
        assert!(tests.contains(&format!("alertname: {alert}")), "{alert} has a test");
    }
}

#[test]
fn containers_are_given_settings_that_there_are() {
    let example = read(".env.example");
    let known: BTreeSet<_> = example
        .lines()
        .filter_map(|line| line.trim_start_matches(['#', ' ']).split_once('=').map(|(name, _)| name))
        .collect();
    // Of the images of others, and of the files themselves.
    let others = ["POSTGRES_PASSWORD", "DATABASE_PASSWORD", "DATABASE_OWNER_PASSWORD"];
    for (file, end) in [
        ("deploy/compose.yaml", ":"),
        ("deploy/kubernetes/settings.yaml", ":"),
        ("deploy/kubernetes/api.yaml", ":"),
        ("deploy/kubernetes/worker.yaml", ":"),
        ("deploy/kubernetes/migrate.yaml", ":"),
        ("deploy/Containerfile", "="),
    ] {
        let text = read(file);
        let mut set = BTreeSet::new();
        for word in
            text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace)
        {
            let Some((name, _)) = word.split_once(end) else { continue };
            if name.contains('_') && name.bytes().all(|b| b == b'_' || b.is_ascii_uppercase()) {
                set.insert(name.to_owned());
            }
        }
        let unknown: Vec<_> = set
            .iter()
            .filter(|name| !known.contains(name.as_str()) && !others.contains(&name.as_str()))
            .collect();
        assert!(unknown.is_empty(), "{file} sets {unknown:?}");
        if file.ends_with("settings.yaml") || end == "=" || file.ends_with("compose.yaml") {
            assert!(set.len() >= 2, "{file}: {set:?}");
        }
    }
}
