//! The list of where people are, beside the catalogue.

use std::collections::BTreeSet;

use tenantry_accounts::privacy::{OTHERS, TABLES};

use crate::node;

#[tokio::test]
async fn of_every_table_it_is_known_who_is_in_it() {
    let database = node::connect("tenantry").await;
    let sql = "select relname::text from pg_class
               where relnamespace = 'tenantry'::regnamespace and relkind in ('r', 'p') and not relispartition";
    let rows = database.query(sql, &[]).await.unwrap();
    let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let listed: Vec<_> =
        TABLES.iter().map(|table| table.name).chain(OTHERS.iter().map(|other| other.0)).collect();

    let known: BTreeSet<String> = listed.iter().map(|name| (*name).to_owned()).collect();

    assert_eq!(there, known, "each has one line in crates/accounts/src/privacy/tables.rs");
    assert_eq!(known.len(), listed.len(), "a table is there twice");
    for (name, _) in OTHERS {
        let sql = "select a.attname::text from pg_attribute a
                   where a.attrelid = ('tenantry.' || $1)::regclass and a.attnum > 0 and not a.attisdropped
                     and a.attname in ('user_id', 'email', 'created_by', 'invited_by', 'actor_id', 'subject_id')";
        let found = database.query(sql, &[name]).await.unwrap();
        assert!(found.is_empty(), "{name} has {:?}", found[0].get::<_, String>(0));
    }
}

#[test]
fn what_becomes_of_every_table_is_documented() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/privacy.md")).unwrap();
    for table in TABLES {
        let row = document.lines().find(|line| line.starts_with(&format!("| `{}` |", table.name)));
        let row = row.unwrap_or_else(|| panic!("docs/privacy.md says nothing of {}", table.name));
        let what = table.erased.describe();
        assert!(row.contains(what), "{}: {what}", table.name);
    }
}

/// What stands in texts of other programs, and in the trail.
#[tokio::test]
async fn an_address_is_taken_out_of_texts_and_not_out_of_other_addresses() {
    let database = crate::node::connect("tenantry").await;
    let (texts, id) = (vec!["a.b@example.org"], "erased");
    for (text, without) in [
        ("a.b@example.org", id),
        (
            r#"{"to": "A.B@example.org", "cc": "maria.b@example.org"}"#,
            r#"{"to": "erased", "cc": "maria.b@example.org"}"#,
        ),
        (r#"{"text": "dear\na.b@example.org, "}"#, r#"{"text": "dear\nerased, "}"#),
        ("to=a.b@example.org.", "to=erased."),
        (
            "aab@example.org a.b@example.org.uk a.b@example.organ x.a.b@example.org",
            "aab@example.org a.b@example.org.uk a.b@example.organ x.a.b@example.org",
        ),
    ] {
        let sql = "select tenantry.without_texts($1, $2)";
        let found: String = database.query_one(sql, &[&text, &texts]).await.unwrap().get(0);
        assert_eq!(found, without);
    }
}
