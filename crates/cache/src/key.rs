use std::fmt;

use uuid::Uuid;

/// The name of one cached row: what kind of row, of which tenant, and which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    kind: &'static str,
    tenant: Uuid,
    id: Uuid,
}

impl Key {
    /// Names the row `id` of `tenant`. `kind` is a short prefix, such as `u` for users; it is part of stored data, so it
    /// is for ever, and it has neither a colon nor a space in it.
    pub const fn new(kind: &'static str, tenant: Uuid, id: Uuid) -> Self {
        Self { kind, tenant, id }
    }

    /// The key in Redis. The epoch is part of it, so that after a fail-over or a restore nothing of the abandoned
    /// timeline can be reached. There is no hash tag: a large tenant is meant to spread over the shards.
    pub(crate) fn in_epoch(&self, epoch: &str) -> String {
        format!("{}:{epoch}:{}:{}", self.kind, self.tenant, self.id)
    }
}

/// The key's own name, without the epoch; stored values repeat it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.tenant, self.id)
    }
}
