//! Places in lists, and cursors: places as they travel, encrypted and signed. A cursor leads on in the list that it is of and
//! nowhere else: what is signed is the tenant, the filter and the order as well. It is encrypted because it holds a name or an
//! address, and travels in the address of a request, which proxies write down.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;

use super::{Selection, SortBy, User};
use crate::{Error, Result, TenantId, UserId, encryption::Encryption};

/// The longest that one of ours can be, and a little more: names have 255 characters at most.
const LONGEST: usize = 4_096;
/// Another one when a cursor is to mean something else.
const PURPOSE: &str = "users.1";

/// A place in a list: after this user, as the user was when the list was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// How well the user matched; of searches.
    pub(super) rank: Option<i32>,
    /// What the list is sorted by.
    pub(super) key: Key,
    /// Ends ties.
    pub(super) id: UserId,
    /// Whether it is known that more were made within the time of the list than can be sorted.
    pub(super) wide: bool,
}

/// What a user is sorted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Key {
    /// A time; none: it never was.
    Time(#[serde(with = "micros")] Option<DateTime<Utc>>),
    /// A text.
    Text(String),
}

impl Position {
    pub(super) fn of(user: &User, sort_by: SortBy, rank: Option<i32>) -> Self {
        let key = match sort_by {
            SortBy::CreatedAt => Key::Time(Some(user.created_at)),
            SortBy::LastLoginAt => Key::Time(user.last_login_at),
            SortBy::Email => Key::Text(user.email.as_str().to_owned()),
            SortBy::Name => Key::Text(user.name.clone()),
        };
        Self { rank, key, id: user.id, wide: false }
    }

    /// The cursor that leads here, in the list `selection` of `tenant`.
    ///
    /// # Errors
    /// When the process has no key to encrypt with.
    pub fn to_cursor(
        &self,
        encryption: &Encryption,
        tenant: TenantId,
        selection: &Selection,
    ) -> Result<String> {
        let bytes = encryption.give_out(&json(self)?, &purpose(tenant, selection)?)?;
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Where a cursor leads.
    ///
    /// # Errors
    /// [`Error::WrongCursor`] unless a process with one of our keys made it for this list of this tenant.
    pub fn from_cursor(
        cursor: &str,
        encryption: &Encryption,
        tenant: TenantId,
        selection: &Selection,
    ) -> Result<Self> {
        let bytes = Some(cursor).filter(|cursor| cursor.len() <= LONGEST);
        let bytes = bytes.and_then(|cursor| URL_SAFE_NO_PAD.decode(cursor).ok()).ok_or(Error::WrongCursor)?;
        let place = encryption.take_back(&bytes, &purpose(tenant, selection)?).ok_or(Error::WrongCursor)?;
        let place: Option<Self> = serde_json::from_slice(&place).ok();
        place.filter(|place| place.fits(selection)).ok_or(Error::WrongCursor)
    }

    /// Whether it can be a place in this list. What we have signed is.
    fn fits(&self, selection: &Selection) -> bool {
        let key = match selection.sort_by {
            SortBy::CreatedAt => matches!(self.key, Key::Time(Some(_))),
            SortBy::LastLoginAt => matches!(self.key, Key::Time(_)),
            SortBy::Email | SortBy::Name => matches!(self.key, Key::Text(_)),
        };
        key && self.rank.is_some() == selection.filter.search.is_some()
    }
}

impl Key {
    pub(super) fn value(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Time(time) => time,
            Self::Text(text) => text,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        *self == Self::Time(None)
    }
}

fn purpose(tenant: TenantId, selection: &Selection) -> Result<Vec<u8>> {
    Ok([PURPOSE.as_bytes(), tenant.0.as_bytes(), &json(selection)?].concat())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|_| Error::Internal("a place in a list could not be serialised"))
}

/// Times as the database has them.
mod micros {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        time: &Option<DateTime<Utc>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.timestamp_micros()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DateTime<Utc>>, D::Error> {
        let micros = Option::<i64>::deserialize(deserializer)?;
        let time =
            |micros| DateTime::from_timestamp_micros(micros).ok_or_else(|| D::Error::custom("no time"));
        micros.map(time).transpose()
    }
}

#[cfg(test)]
mod tests;
