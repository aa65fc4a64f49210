//! What must hold of everything that is parsed, whatever comes. Each law is a function of bytes beside what it is about: called
//! with random ones by the tests below, and by the fuzz targets (fuzz/) with such as look for a way.

#[cfg(feature = "laws")]
pub use tenantry_accounts::laws::{api_key, cursor, fields, token};
#[cfg(feature = "laws")]
pub use tenantry_stripe::laws::{event, signature};

pub use crate::{
    access_token::laws::access_token,
    api::{envelope::laws::condition, idempotency::laws::idempotency_key, merge_patch::laws::merge_patch},
    imports::laws::rows,
    limits::laws::{forwarded_for, rate},
    weighted::laws::weighted,
};

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..most)
    }

    #[test]
    fn what_the_fuzzer_begins_with_keeps_its_law() {
        type Law = fn(&[u8]);
        let laws: [(&str, Law); 7] = [
            ("access_token", super::access_token),
            ("condition", super::condition),
            ("forwarded_for", super::forwarded_for),
            ("idempotency_key", super::idempotency_key),
            ("merge_patch", super::merge_patch),
            ("rate", super::rate),
            ("rows", super::rows),
        ];
        for (law, check) in laws {
            let kept = std::fs::read_dir(format!("{}/fuzz/seeds/{law}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            for input in kept {
                check(&std::fs::read(input.unwrap().path()).unwrap());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn an_access_token_says_what_was_signed_and_nobody_makes_one(data in bytes(300)) {
            super::access_token(&data);
        }

        #[test]
        fn no_client_says_where_it_comes_from(data in bytes(200)) {
            super::forwarded_for(&data);
        }

        #[test]
        fn a_rate_is_what_was_written(text in "\\PC{0,12}|[0-9]{1,11}/[0-9]{1,6}(ns|us|ms|s|m|h|d)") {
            super::rate(text.as_bytes());
        }

        #[test]
        fn a_weight_is_what_was_written(head in any::<[u8; 2]>(), text in "\\PC{0,12}|[a-z*]{0,4}(;q=[0-9.]{0,6})?(, ?[a-z*]{1,4}(;q=[01](\\.[0-9]{0,4})?)?){0,3}") {
            super::weighted(&[&head, text.as_bytes()].concat());
        }

        #[test]
        fn a_version_is_found_by_its_tags(text in "\\PC{0,20}|(W/)?\"[0-9]{1,20}(-gzip)?\"(, ?\"[0-9]{1,3}\"){0,3}") {
            super::condition(text.as_bytes());
        }

        #[test]
        fn a_key_is_taken_whole_and_the_same_json_is_the_same_request(data in bytes(600)) {
            super::idempotency_key(&data);
        }

        #[test]
        fn a_patch_that_is_let_through_does_no_harm(data in bytes(200)) {
            super::merge_patch(&data);
        }

        #[test]
        fn a_patch_of_json_does_no_harm(json in patch()) {
            super::merge_patch(json.to_string().as_bytes());
        }

        #[test]
        fn rows_are_the_same_however_they_are_cut(data in bytes(400)) {
            super::rows(&data);
        }

        #[test]
        fn rows_of_cells_are_the_same_however_they_are_cut(cut in any::<u8>(), text in "([a-z@.,\"\\r\\n\u{e9}{}:]{0,12}){0,12}") {
            // No names first, then the rows themselves.
            super::rows(&[&[cut], text.as_bytes()].concat());
        }
    }

    fn patch() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::{Value, json};
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}|.{0,4}".prop_map(Value::from),
        ];
        let tree = leaf.prop_recursive(20, 60, 3, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::hash_map("[a-z]{0,3}|.", inner, 0..3).prop_map(|map| json!(map)),
            ]
        });
        (tree.clone(), tree)
            .prop_map(|(public, private)| json!({"public": public, "private": {"k": private}}))
    }
}
