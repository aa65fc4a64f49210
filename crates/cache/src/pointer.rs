use std::fmt;

use uuid::Uuid;

/// The name of something other than an id by which a row is looked up, such as an address; in Redis it leads to the id.
///
/// Only a digest is stored, so that nobody reads addresses in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pointer {
    kind: &'static str,
    tenant: Uuid,
    digest: [u8; 32],
}

impl Pointer {
    /// Names what has this SHA-256 in `tenant`. `kind` is a short prefix, such as `e` for addresses of users; it is part of
    /// stored data, so it is for ever, it differs from all kinds of [`Key`](crate::Key), and it has no colon in it.
    pub const fn new(kind: &'static str, tenant: Uuid, digest: [u8; 32]) -> Self {
        Self { kind, tenant, digest }
    }

    /// The key in Redis; see [`Key`](crate::Key) for its parts.
    pub(crate) fn in_epoch(&self, epoch: &str) -> String {
        format!("{}:{epoch}:{}:{}", self.kind, self.tenant, Hex(&self.digest))
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_redis_is_the_digest_in_hexadecimal() {
        let mut digest = [0; 32];
        digest[31] = 0xab;
        let pointer = Pointer::new("e", Uuid::nil(), digest);
        let expected = format!("e:00000001:{}:{}ab", Uuid::nil(), "0".repeat(62));
        assert_eq!(pointer.in_epoch("00000001"), expected);
    }
}
