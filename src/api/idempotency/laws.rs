//! Keys are taken as they are, or refused; the same JSON is the same request.

use arbitrary::{Result, Unstructured};
use poem::{
    Request,
    http::{HeaderMap, HeaderValue},
};
use serde_json::Value;

use super::{HEADER, digest, key};

/// One visible key is taken as it is, and nothing is passed over; blanks in a body change nothing, and values do.
pub fn idempotency_key(data: &[u8]) {
    let _ = check(Unstructured::new(data));
}

fn check(mut u: Unstructured<'_>) -> Result<()> {
    let (line, twice): (Vec<u8>, bool) = (u.arbitrary()?, u.ratio(1, 4)?);
    if let Ok(value) = HeaderValue::from_bytes(&line) {
        let mut request = Request::default();
        let headers: &mut HeaderMap = request.headers_mut();
        headers.append(HEADER, value.clone());
        if twice {
            headers.append(HEADER, value);
        }
        let fits = !twice && (1..=255).contains(&line.len()) && line.iter().all(u8::is_ascii_graphic);
        match key(&request) {
            Ok(key) => assert!(fits && key.is_some_and(|key| key.as_bytes() == line)),
            Err(_) => assert!(!fits),
        }
    }
    let request = Request::default();
    let value = serde_json::json!({"b": u.arbitrary::<String>()?, "a": u.arbitrary::<i64>()?});
    let (compact, pretty) = (value.to_string(), format!("{value:#}"));
    assert_eq!(digest(&request, compact.as_bytes()), digest(&request, pretty.as_bytes()));
    let other = u.arbitrary::<i64>()?;
    if value["a"] != other {
        let other = Value::Object(
            [("b".into(), value["b"].clone()), ("a".into(), other.into())].into_iter().collect(),
        );
        assert_ne!(digest(&request, compact.as_bytes()), digest(&request, other.to_string().as_bytes()));
    }
    let rest = u.take_rest();
    assert_eq!(digest(&request, rest), digest(&request, rest));
    Ok(())
}
