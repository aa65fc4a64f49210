//! `Accept-Encoding` (RFC 9110, 12.5.3), for what is coded already. (tower-http and poem do not lend theirs.)

use poem::http::{HeaderMap, header};

use crate::weighted::Weighted;

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
    let accepted = Weighted::of(headers, &header::ACCEPT_ENCODING);
    let weight = |name: &str| accepted.weight(name).or_else(|| accepted.weight("*")).unwrap_or(0);
    // Nothing need be said for what is not coded to be welcome; said, it may be liked better.
    let plain = accepted.weight("identity").unwrap_or(0);
    let liked = Coding::ALL.into_iter().map(|coding| (weight(coding.name()), coding));
    // The first among equals.
    let (weight, coding) = liked.rev().max_by_key(|(weight, _)| *weight)?;
    (weight > 0 && weight >= plain).then_some(coding)
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
            ("gzip;level=9", Some("gzip")),
            (",;,", None),
        ] {
            assert_eq!(chosen(accepted), expected, "{accepted:?}");
        }
        assert_eq!(best(&HeaderMap::new()), None);
    }
}
