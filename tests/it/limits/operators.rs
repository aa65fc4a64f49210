//! `tenantry limits`.

use serde_json::{Value, json};

use crate::node::Cluster;

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_operator_sees_who_is_locked_out_and_lets_them_in_again() {
    let settings = [("RATE_LIMIT_LOGIN", "3/1h"), ("RATE_LIMIT_REGISTER", "60/1h")];
    let cluster = Cluster::start(2, 1, &settings).await;
    let key = format!("login:{}:admin@example.org", cluster.tenant);
    assert!(cluster.run(&["limits", "show", &key]).contains("remaining  3"));
    assert_eq!(cluster.guess_until_refused(0, "admin@example.org").await, 3);
    assert_eq!(cluster.guess_until_refused(1, "admin@example.org").await, 0);

    let shown = cluster.run(&["limits", "show", &key]);
    assert!(shown.contains("3 in 1h, counted by all processes together"), "{shown}");
    assert!(shown.contains("remaining  0") && shown.contains("next       in "), "{shown}");

    let reset = json_lines(&cluster.run(&["limits", "reset", &key, "--json"]));
    assert_eq!((&reset[0]["remaining"], &reset[0]["wait"]), (&json!(3), &json!(0.0)), "{reset:?}");
    // Both nodes know that, whatever they remember.
    for node in [0, 1] {
        assert_eq!(cluster.wrong_guess(node, "admin@example.org").await, 401, "node {node}");
    }
    assert!(cluster.run(&["limits", "show", &key]).contains("remaining  1"));
}

#[tokio::test]
async fn what_each_process_counts_is_said_to_be_known_to_it_alone() {
    let settings =
        [("RATE_LIMIT_IP", "1000/15m"), ("RATE_LIMIT_REGISTER", "60/1h"), ("RATE_LIMIT_CALLER", "50/1m")];
    let cluster = Cluster::start(1, 1, &settings).await;
    let lines = json_lines(&cluster.run(&["limits", "show", "::ffff:203.0.113.9", "--json"]));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((&lines[0]["limit"], &lines[0]["counted_by"]), (&json!("ip"), &json!("process")));
    assert_eq!(lines[0]["remaining"], Value::Null);
    assert_eq!((&lines[1]["limit"], &lines[1]["remaining"]), (&json!("register"), &json!(60)));
    let text = cluster.run(&["limits", "show", "203.0.113.9"]);
    assert!(text.contains("only each process knows"), "{text}");

    let refused = |arguments: &[&str]| {
        let output = cluster.command().args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&["limits", "reset", &format!("caller:{}", cluster.users[0])]);
    assert!(said.contains("each process counts this for itself"), "{said}");
    let said = refused(&["limits", "reset", &cluster.tenant.to_string()]);
    assert!(said.contains("its rate is off"), "{said}");
    assert!(refused(&["limits", "show", "no-such-tenant"]).contains("there is no open tenant"));
    assert!(refused(&["limits", "show", "login:acme"]).contains("--help"));
    assert!(refused(&["limits", "show", "login:acme:nonsense"]).contains("KEY"));
}
