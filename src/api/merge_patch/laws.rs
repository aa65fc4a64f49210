//! What gets past the look at a merge patch does the database no harm.

use arbitrary::{Result, Unstructured};
use serde_json::Value;

use super::{DEEPEST, Looked, MOST_NAMES};
use crate::api::json::Unique;

/// What is let through is shallow, small in names, without U+0000 and without numbers that are thousands of digits.
pub fn merge_patch(data: &[u8]) {
    let _ = numbers(&mut Unstructured::new(data));
    let Ok(Unique(value)) = serde_json::from_slice(data) else { return };
    let look = look(data, value.clone());
    assert!(look.errors.len() <= 21);
    if look.errors.is_empty() {
        assert!(
            value
                .as_object()
                .is_some_and(|parts| parts.keys().all(|part| ["public", "private"].contains(&&**part)))
        );
        // The patch and its part are two levels more.
        assert!(depth(&value) <= DEEPEST + 2, "{} deep", depth(&value));
        assert!(names(&value) <= MOST_NAMES + 2);
        assert!(!has_nul(&value));
    }
}

fn look(text: &[u8], value: Value) -> Looked {
    let mut looked = Looked::default();
    looked.at_patch(value);
    looked.at_numbers(text);
    looked
}

/// Numbers by their exponents, whatever texts stand before them.
fn numbers(u: &mut Unstructured<'_>) -> Result<()> {
    let (exponent, text): (i16, String) = (u.arbitrary()?, u.arbitrary()?);
    let text = text.replace('\0', "");
    let letter = *u.choose(&['e', 'E'])?;
    let sign = if exponent >= 0 { *u.choose(&["", "+", "+000"])? } else { "" };
    let json = format!("{{\"public\":{{\"t\":{},\"n\":[1{letter}{sign}{exponent}]}}}}", Value::String(text));
    let Ok(Unique(value)) = serde_json::from_slice(json.as_bytes()) else {
        // Beyond what a number holds here it is refused as JSON.
        assert!(exponent > 308, "{json}");
        return Ok(());
    };
    let refused = !look(json.as_bytes(), value).errors.is_empty();
    assert_eq!(refused, !(-308..=308).contains(&exponent), "{json}");
    Ok(())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn names(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.len() + members.values().map(names).sum::<usize>(),
        Value::Array(values) => values.iter().map(names).sum(),
        _ => 0,
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Array(values) => values.iter().any(has_nul),
        _ => false,
    }
}
