use tenantry_jobs::{Kind, schema};

#[test]
fn a_kind_is_found_by_the_string_it_is_stored_as() {
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(*kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    assert!("no_such_kind".parse::<Kind>().is_err());
}

/// `UPDATE=1` writes the file anew.
#[test]
fn the_published_schema_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/jobs.schema.json");
    let expected = format!("{:#}\n", schema::document());

    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &expected).unwrap();
    }

    let published = std::fs::read_to_string(path).unwrap_or_default();
    assert!(published == expected, "openapi/jobs.schema.json is out of date: run again with UPDATE=1");
}
