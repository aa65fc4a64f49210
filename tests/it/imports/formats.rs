//! CSV and JSON lines, whose columns are called what they are called.

use reqwest::StatusCode;
use serde_json::json;

use super::{CSV, NDJSON, PATH};
use crate::{
    app::{TestApp, answer, wrong_fields},
    passwords::MADE_ELSEWHERE,
};

#[tokio::test]
async fn each_row_of_a_csv_says_what_became_of_it() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=4"]).await;
    let rows = "\u{feff}Email,name,role,is_active,created_at\r\n\
        ada@example.org,\"Ada \"\"A\"\" Lovelace, Countess\",admin,,2020-01-31T12:00:00Z\r\n\
        ADA@example.org,Ada again,,,\r\n\
        \r\n\
        admin@example.org,Somebody,,,\r\n\
        nobody,,,maybe,2999-01-01T00:00:00Z\r\n\
        root@example.org,Root,super_admin,,\r\n\
        bob@example.org,Bob,,no,\r\n\
        short@example.org,Short\r\n\
        carl@example.org,Carl,,,\r\n\
        dora@example.org,Dora,,,\r\n";

    let id = app.import("", CSV, rows).await;
    assert_eq!(app.progress(&id).await["state"], "queued");
    app.run_jobs().await;

    let done = app.progress(&id).await;
    let told = json!({
        "state": "done", "reason": null, "format": "csv", "dry_run": false, "invite": false,
        "total": 9, "done": 9, "created": 3, "skipped": 2, "failed": 4,
    });
    assert!(told.as_object().unwrap().iter().all(|(name, value)| done[name] == *value), "{done}");
    assert!(["created_at", "started_at", "finished_at", "keep_until"].iter().all(|at| done[at].is_string()));
    assert_eq!(done["eta_seconds"], json!(null));
    let outcomes = [
        "created",
        "repeated: repeated",
        "exists: email_taken",
        "invalid: invalid_email",
        "forbidden: forbidden",
        "created",
        "invalid: wrong_length",
        "created",
        "no_seat: no_seat_left",
    ];
    assert_eq!(app.outcomes(&id).await, outcomes);
    let report = app.report(&id, "").await;
    let lines: Vec<_> = report.iter().map(|row| row["line"].as_i64().unwrap()).collect();
    assert_eq!(lines, [2, 3, 5, 6, 7, 8, 9, 10, 11]);
    let wrong: Vec<_> =
        report[3]["errors"].as_array().unwrap().iter().map(|error| error["field"].clone()).collect();
    assert_eq!(wrong, ["/email", "/name", "/is_active", "/created_at"]);
    let (_, ada) = app.look_up(report[0]["user_id"].as_str().unwrap()).await;
    assert_eq!(ada["name"], "Ada \"A\" Lovelace, Countess");
    assert_eq!((&ada["role"], &ada["created_at"]), (&json!("admin"), &json!("2020-01-31T12:00:00Z")));
    let (_, bob) = app.look_up(report[5]["user_id"].as_str().unwrap()).await;
    assert_eq!((&bob["is_active"], &bob["email_verified"]), (&json!(false), &json!(false)));
    assert_eq!(app.seats().await, (4, 4));
    // Nobody is mailed who was not asked to be.
    assert_eq!(app.came_of_it().await, [4, 0, 1, 3], "the mail is the administrator's");
}

#[tokio::test]
async fn each_line_of_json_says_what_became_of_it() {
    let app = TestApp::spawn().await;
    let long = format!(r#"{{"email": "long@example.org", "name": "Long", "pad": "{}"}}"#, "x".repeat(20_000));
    let rows = [
        r#"{"email": "ada@example.org", "name": "Ada", "role": null}"#,
        "",
        r#"{"email": "bob@example.org", "name": "Bob", "age": 7}"#,
        r#"{"email": "carl@example.org", "name": "Carl""#,
        r#"["dora@example.org"]"#,
        r#"{"email": "emil@example.org", "email": "else@example.org", "name": "Emil"}"#,
        r#"{"email": "fay@example.org", "name": "Fay", "password": "Correct-Horse-1"}"#,
        &long,
        r#"{"email": "gus@example.org", "name": "Gus", "is_active": "yes"}"#,
        r#"{"email": "hal@example.org", "name": "Hal", "password_hash": "$1$nonsense"}"#,
        r#"{"email": "ida@example.org", "name": "Ida"}"#,
    ]
    .join("\r\n");

    let id = app.import("", "application/x-ndjson; charset=UTF-8", rows).await;
    app.run_jobs().await;

    let outcomes = [
        "created",
        "invalid: unknown_field",
        "invalid: malformed",
        "invalid: wrong_type",
        "invalid: malformed",
        "invalid: not_allowed",
        "invalid: too_long",
        "invalid: wrong_type",
        "invalid: invalid_hash",
        "created",
    ];
    assert_eq!(app.outcomes(&id).await, outcomes);
    let lines: Vec<_> = app.report(&id, "").await.iter().map(|row| row["line"].as_i64().unwrap()).collect();
    assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
}

#[tokio::test]
async fn columns_may_be_called_otherwise_and_others_are_passed_over() {
    let app = TestApp::spawn().await;
    let query = "columns=email:e-mail,name:full%20name&role=admin";
    let csv = "id,full name,e-mail,email\n7,Ada,ada@example.org,old@example.org\n";
    let lines = r#"{"e-mail": "bob@example.org", "full name": "Bob", "email": 7, "id": [1]}"#;

    let ids = [app.import(query, CSV, csv).await, app.import(query, NDJSON, lines).await];
    app.run_jobs().await;

    for (id, email) in ids.iter().zip(["ada@example.org", "bob@example.org"]) {
        assert_eq!(app.outcomes(id).await, ["created"]);
        let report = app.report(id, "").await;
        let (_, user) = app.look_up(report[0]["user_id"].as_str().unwrap()).await;
        assert_eq!((&user["email"], &user["role"]), (&json!(email), &json!("admin")));
    }
    for (query, csv, code) in [
        ("", "mail,name\na@example.org,Ada\n", vec!["unknown_field", "missing"]),
        ("", "email,email,name\na@example.org,b@example.org,Ada\n", vec!["repeated"]),
        ("columns=email:mail,name:nom", "mail,name\na@example.org,Ada\n", vec!["missing"]),
        ("columns=age:age", "email,name\na@example.org,Ada\n", vec!["invalid_columns"]),
        ("dry_run=perhaps&role=king", "email,name\na@example.org,Ada\n", vec!["wrong_type", "not_allowed"]),
    ] {
        let (status, refused) = answer(app.upload(query, CSV, csv)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
        let codes: Vec<_> = wrong_fields(&refused).into_iter().map(|(_, code)| code).collect();
        assert_eq!(codes, code, "{csv}");
    }
    assert_eq!(app.get(PATH).await.1["data"].as_array().unwrap().len(), 2, "nothing is left of the others");
}

#[tokio::test]
async fn who_comes_with_a_hash_signs_in_and_no_hash_stays_where_it_was_staged() {
    let app = TestApp::spawn_with(&["--rate-limit-login=off"]).await;
    let hashes = MADE_ELSEWHERE.iter().enumerate();
    let row = |(n, hash): (usize, &&str)| {
        json!({"email": format!("u{n}@example.org"), "name": "Some One", "password_hash": hash}).to_string()
    };
    let rows: Vec<_> = hashes.map(row).collect();

    let id = app.import("", NDJSON, rows.join("\n")).await;
    assert_eq!(app.came_of_it().await[1], 6);
    app.run_jobs().await;

    assert_eq!(app.came_of_it().await, [7, 0, 1, 6]);
    assert_eq!(app.outcomes(&id).await, ["created"; 6]);
    for n in 0..6 {
        app.sign_in(&format!("u{n}@example.org")).await;
    }
}

#[tokio::test]
async fn a_report_is_filtered_and_its_csv_runs_no_formula() {
    let app = TestApp::spawn().await;
    let rows = "email,name\n=cmd@example.org,Ada\n+7@example.org,Bob\nwrong,\"Eve\"\nada@example.org,\"Ada, \"\"A\"\"\"\n=cmd@example.org,Again\n";
    let id = app.import("", CSV, rows).await;
    let pending = app.report(&id, "?outcome=pending").await;
    assert_eq!(pending.len(), 3);
    app.run_jobs().await;

    let request = app.request(reqwest::Method::GET, &format!("{PATH}/{id}/report?format=csv"));
    let response = request.send().await.unwrap();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(header("content-disposition"), format!("attachment; filename=\"import-{id}.csv\""));
    assert_eq!(header("cache-control"), "no-store");
    let text = response.text().await.unwrap();
    let lines: Vec<_> = text.split("\r\n").collect();
    assert_eq!(lines[0], "row,line,outcome,email,user_id,code,field,message");
    assert!(lines[1].starts_with("1,2,created,'=cmd@example.org,"), "{text}");
    assert!(lines[2].starts_with("2,3,created,'+7@example.org,"), "{text}");
    assert_eq!(lines[3], "3,4,invalid,,,invalid_email,/email,Email must be a valid e-mail address");
    assert_eq!(lines[5], "5,6,repeated,'=cmd@example.org,,repeated,/email,This address is there already");
    for (outcome, rows) in [("created", 3), ("invalid", 1), ("repeated", 1), ("no_seat", 0)] {
        assert_eq!(app.report(&id, &format!("?outcome={outcome}")).await.len(), rows, "{outcome}");
    }
    let (status, refused) = app.get(&format!("{PATH}/{id}/report?format=pdf&outcome=fine")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(wrong_fields(&refused).len(), 2);
}
