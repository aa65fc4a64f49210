//! One entry in Redis, by the rules of `src/lua`; `lua.rs` compares the two.

/// Whoever may hold the lease: 0 nobody, readers from 1, writers from [`WRITER`].
pub(crate) type Token = u8;

/// The first writer's token.
pub(crate) const WRITER: Token = 8;

/// 0 stands for a field that is not there, but for `v`, where `d` tells: a version of 0 says that there is no row. Times are ticks that are left; models without time let them stand still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) v: u8,
    /// Which write's body it is; that is not told by the version, since a version that was rolled back is used again.
    pub(crate) d: u8,
    pub(crate) f: u8,
    pub(crate) l: Token,
    pub(crate) le: u8,
    pub(crate) ttl: u8,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) lease: u8,
    pub(crate) floor: u8,
    pub(crate) ttl: u8,
    /// A lease that has run out fills nothing.
    pub(crate) expired_leases_fill_nothing: bool,
    /// A lease does not lengthen the life of a floor.
    pub(crate) leases_leave_floors_alone: bool,
}

/// As in `src/lua`, for models without time: everything lives until an event ends it.
pub(crate) const TIMELESS: Rules =
    Rules { lease: 1, floor: 1, ttl: 1, expired_leases_fill_nothing: true, leases_leave_floors_alone: true };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    Hit { v: u8, d: u8 },
    Granted,
    Filling,
    Writing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Stored,
    /// The lease is someone else's by now, or nobody's.
    NotOurs,
    /// A floor or a value is newer.
    TooOld,
}

impl Entry {
    pub(crate) fn lease(&mut self, token: Token, min: u8, rules: Rules) -> Lease {
        if self.d != 0 {
            if self.v >= min {
                return Lease::Hit { v: self.v, d: self.d };
            }
            (self.v, self.d) = (0, 0);
            self.vanish_if_empty();
        }
        if self.l != 0 && self.le > 0 {
            return if self.l >= WRITER { Lease::Writing } else { Lease::Filling };
        }
        (self.l, self.le) = (token, rules.lease);
        if self.f == 0 || !rules.leases_leave_floors_alone {
            self.ttl = self.ttl.max(rules.lease);
        }
        Lease::Granted
    }

    pub(crate) fn fill(&mut self, token: Token, v: u8, d: u8, rules: Rules) -> Fill {
        if self.l != token || rules.expired_leases_fill_nothing && self.le == 0 {
            return Fill::NotOurs;
        }
        (self.l, self.le) = (0, 0);
        self.store(v, d, rules)
    }

    /// The second half of `fill`, and all of it in variants without tokens.
    pub(crate) fn store(&mut self, v: u8, d: u8, rules: Rules) -> Fill {
        if self.f > v || self.d != 0 && self.v > v {
            return Fill::TooOld;
        }
        (self.v, self.d, self.ttl) = (v, d, rules.ttl);
        Fill::Stored
    }

    pub(crate) fn release(&mut self, token: Token) {
        if self.l == token {
            (self.l, self.le) = (0, 0);
        }
        self.vanish_if_empty();
    }

    /// `token` is 0 for the worker.
    pub(crate) fn floor(&mut self, version: u8, token: Token, rules: Rules) -> bool {
        if self.d != 0 && self.v >= version {
            return false;
        }
        (self.v, self.d) = (0, 0);
        if self.f <= version {
            self.f = version;
            (self.l, self.le) = if token == 0 { (0, 0) } else { (token, rules.lease) };
        }
        self.ttl = rules.floor;
        true
    }

    pub(crate) fn unfloor(&mut self, token: Token) -> bool {
        let ours = self.l == token;
        if ours {
            *self = Self::default();
        }
        ours
    }

    pub(crate) fn tick(&mut self) {
        self.le = self.le.saturating_sub(1);
        self.ttl = self.ttl.saturating_sub(1);
        if self.ttl == 0 {
            *self = Self::default();
        }
    }

    /// Redis removes a hash with its last field, and its time to live with it.
    pub(crate) fn vanish_if_empty(&mut self) {
        if self.d == 0 && self.f == 0 && self.l == 0 {
            *self = Self::default();
        }
    }
}
