//! Weights, as lists of headers write them.

use poem::http::{HeaderMap, HeaderValue, header};

use super::Weighted;

/// A weight is what was written and no more than all, however it was written and whatever stands beside it.
pub fn weighted(data: &[u8]) {
    let (head, text) = data.split_at(data.len().min(2));
    let thousandths = head.iter().fold(0_u16, |number, byte| number << 8 | u16::from(*byte)) % 1001;
    let exact = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    let short = exact.trim_end_matches('0');
    let short = if short == "0." { "0" } else { short };
    let ways = [
        format!("x;q={exact}"),
        format!(" X ; Q={short} "),
        format!("x;q={}", short.trim_end_matches('.')),
        format!("x;version=2;q={short}"),
    ];
    for way in &ways {
        let headers = lines(&[way.as_bytes()]);
        assert_eq!(Weighted::of(&headers, &header::ACCEPT).weight("x"), Some(thousandths), "{way:?}");
    }
    // Whatever else is in the list, before and behind, in this line or another.
    let beside = [text, b",", ways[0].as_bytes(), b",", text].concat();
    for headers in [lines(&[&beside]), lines(&[text, ways[0].as_bytes()])] {
        let list = Weighted::of(&headers, &header::ACCEPT);
        assert!(list.0.iter().all(|(_, weight)| *weight <= 1000));
        let is_text = headers.get_all(header::ACCEPT).iter().any(|line| line.to_str().is_ok());
        let weight = list.weight("x");
        assert!(
            weight.is_none_or(|weight| weight >= thousandths) && weight.is_some() | !is_text,
            "{beside:?}"
        );
    }
}

/// Those that are lines of a header at all.
fn lines(texts: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in texts.iter().filter_map(|text| HeaderValue::from_bytes(text).ok()) {
        headers.append(header::ACCEPT, line);
    }
    headers
}
