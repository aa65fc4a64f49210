use std::fmt;

use uuid::{Uuid, fmt::Hyphenated};

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
        let mut name = String::with_capacity(self.kind.len() + epoch.len() + 3 + 2 * Hyphenated::LENGTH);
        name.push_str(self.kind);
        name.push(':');
        name.push_str(epoch);
        self.write_ids(&mut name);
        name
    }

    /// Its own name, without the epoch; stored values repeat it.
    pub(crate) fn write(&self, text: &mut String) {
        text.push_str(self.kind);
        self.write_ids(text);
    }

    /// Past the machinery of formats: a read of Redis writes them twice.
    fn write_ids(&self, text: &mut String) {
        for id in [self.tenant, self.id] {
            text.push(':');
            text.push_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = String::new();
        self.write(&mut name);
        f.write_str(&name)
    }
}
