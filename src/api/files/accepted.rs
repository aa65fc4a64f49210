//! `Accept-Encoding` (RFC 9110, 12.5.3), for what is coded already. (tower-http and poem do not lend theirs.)

use poem::http::{HeaderMap, header};

/// The codings that we have, the one that we would choose first; so does tower-http.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Zstd,
    Brotli,
    Gzip,
}

impl Coding {
    pub(super) const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// The coding that the client likes best; none: it wants none, or none of ours.
pub(super) fn best(headers: &HeaderMap) -> Option<Coding> {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let accepted: Vec<_> = lines.flat_map(|line| line.split(',')).filter_map(parse).collect();
    let quality = |name: &str| {
        let of = |name: &str| {
            let named = accepted.iter().find(|(accepted, _)| accepted.eq_ignore_ascii_case(name));
            named.map(|(_, quality)| *quality)
        };
        of(name).or_else(|| of("*"))
    };
    // Nothing need be said for what is not coded to be welcome; said, it may be liked better.
    let plain = accepted.iter().find(|(name, _)| name.eq_ignore_ascii_case("identity"));
    let plain = plain.map_or(0, |(_, quality)| *quality);
    let liked = Coding::ALL.into_iter().map(|coding| (quality(coding.name()).unwrap_or(0), coding));
    // The first among equals.
    let (quality, coding) = liked.rev().max_by_key(|(quality, _)| *quality)?;
    (quality > 0 && quality >= plain).then_some(coding)
}

/// A coding, and its weight in thousandths.
fn parse(member: &str) -> Option<(&str, u16)> {
    let (name, weight) = match member.split_once(';') {
        Some((name, weight)) => (name, thousandths(weight.trim())?),
        None => (member, 1000),
    };
    Some((name.trim(), weight))
}

/// `q=0.5`; nonsense is none, and the coding is left out.
fn thousandths(weight: &str) -> Option<u16> {
    let weight = weight.strip_prefix("q=").or_else(|| weight.strip_prefix("Q="))?;
    let is_number = weight.len() <= 5 && weight.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let weight: f32 = is_number.then(|| weight.parse().ok()).flatten()?;
    (weight <= 1.0).then_some((weight * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accepted: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
        best(&headers).map(Coding::name)
    }

    #[test]
    fn the_coding_is_the_one_that_is_liked_best() {
        for (accepted, expected) in [
            ("", None),
            ("identity", None),
            ("deflate", None),
            ("gzip", Some("gzip")),
            ("GZIP", Some("gzip")),
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip, br", Some("br")),
            ("gzip;q=1, br;q=0.5, zstd;q=0.999", Some("gzip")),
            ("gzip ; q=0.5 , br ; q=0.501", Some("br")),
            ("*", Some("zstd")),
            ("*;q=0.1, zstd;q=0", Some("br")),
            ("*;q=0, gzip", Some("gzip")),
            ("gzip;q=0", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some("gzip")),
            ("gzip;q=x, br;q=2, zstd;q=-1", None),
            ("gzip;q=1e9", None),
            ("gzip;level=9", None),
            (",;,", None),
        ] {
            assert_eq!(chosen(accepted), expected, "{accepted:?}");
        }
        assert_eq!(best(&HeaderMap::new()), None);
    }
}
