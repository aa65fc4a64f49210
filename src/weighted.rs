//! What a client likes better than what: lists with weights, as `Accept` and `Accept-Encoding` have them (RFC 9110, 12.4.2).

#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;

use poem::http::{HeaderMap, HeaderName};

/// What a list names, each with its weight in thousandths. What has a weight that cannot be read is left out.
pub(crate) struct Weighted<'a>(Vec<(&'a str, u16)>);

impl<'a> Weighted<'a> {
    /// What all lines of a header name.
    pub(crate) fn of(headers: &'a HeaderMap, name: &HeaderName) -> Self {
        let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
        Self(lines.flat_map(|line| line.split(',')).filter_map(member).collect())
    }

    /// The weight of a name, in any case; the largest where it is named more than once.
    pub(crate) fn weight(&self, name: &str) -> Option<u16> {
        let named = self.0.iter().filter(|(named, _)| named.eq_ignore_ascii_case(name));
        named.map(|(_, weight)| *weight).max()
    }
}

/// A name, and its weight. Other parameters are of no weight here.
fn member(member: &str) -> Option<(&str, u16)> {
    let mut parts = member.split(';').map(str::trim);
    let name = parts.next()?;
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    Some((name, weight.map_or(Some(1000), thousandths)?))
}

/// From 0 to 1 with up to three decimals. Clients leave the nought out, too.
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, decimals) = weight.split_once('.').unwrap_or((weight, ""));
    let is_number = matches!(whole, "0" | "1") || whole.is_empty() && !decimals.is_empty();
    if !is_number || decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{whole}{decimals:0<3}").parse().ok().filter(|weight| *weight <= 1000)
}
