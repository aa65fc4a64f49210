//! What Redis holds, as it is: for operators, and for comparisons with the truth.
//!
//! A comparison reads Redis first and the row afterwards. A row only goes forward, so what Redis held cannot be newer than a
//! row that was read later. That it is older proves nothing yet: the row may have been written in between. It does when the
//! newer version had been seen before Redis was read.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use deadpool_redis::redis::{self, RedisError};
use futures_util::future::try_join_all;
use uuid::Uuid;

use crate::{
    Cache, Inner, Key, Loaded, Pointer, Unreachable, Version,
    budget::Budget,
    entry::{self, State},
    era::Era,
    redis::Run,
};

/// What a call for an operator may take; nobody waits for it but he.
const PATIENCE: Duration = Duration::from_secs(5);

const INSPECT: &str = include_str!("lua/inspect.lua");
const DROP: &str = include_str!("lua/drop.lua");

/// What Redis holds under the name of a row.
#[derive(Clone, Debug)]
pub struct Held {
    /// The name in Redis.
    pub name: String,
    /// The value, whether it can be shown or not.
    pub value: Option<Value>,
    /// The oldest version that may be stored.
    pub floor: Option<Version>,
    /// Who may fill.
    pub lease: Option<Lease>,
    /// How long all of it stays; `None` if there is nothing, or no end.
    pub left: Option<Duration>,
}

/// A value in Redis.
#[derive(Clone, Debug)]
pub struct Value {
    /// What it says of the row; `None` if it is not what its name and this release say.
    pub decoded: Option<Loaded>,
    /// The version stored beside it, as it is written.
    pub version: String,
    /// The first line of the data, which names schema, row, version, state and length.
    pub line: String,
    /// How many bytes it has.
    pub bytes: usize,
    data: Bytes,
}

/// The right to fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is: `r...` a reader's, `w...` a writer's.
    pub token: String,
    /// How long it lasts; zero once it has run out.
    pub left: Duration,
}

/// How a value in Redis differs from its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// It is older than the row.
    Stale,
    /// It is newer than the row has ever been.
    Ahead,
    /// It has the row's version and says something else.
    Differs,
    /// It is no value of this row, or of another release.
    Foreign,
}

impl Mismatch {
    /// As in the labels of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Ahead => "ahead",
            Self::Differs => "differs",
            Self::Foreign => "foreign",
        }
    }
}

impl Held {
    fn nothing(name: String) -> Self {
        Self { name, value: None, floor: None, lease: None, left: None }
    }

    /// How the value differs from `after`, the row as it was read after Redis; `before` is the version it had for certain when
    /// Redis was read. Without `before` an older value counts as [`Mismatch::Stale`], which is a suspicion only.
    pub fn mismatch(&self, before: Option<Version>, after: &Loaded) -> Option<Mismatch> {
        let value = self.value.as_ref()?;
        let Some(held) = &value.decoded else { return Some(Mismatch::Foreign) };
        let (version, row) = (held.version(), after.version());
        if version > row {
            Some(Mismatch::Ahead)
        } else if version < before.unwrap_or(row) {
            Some(Mismatch::Stale)
        } else if version == row && held != after {
            Some(Mismatch::Differs)
        } else {
            None
        }
    }
}

impl Loaded {
    /// The version by which it is compared; 0 if there is no row.
    pub fn version(&self) -> Version {
        match self {
            Self::Row(entry) => entry.version,
            Self::Absent => 0,
        }
    }

    /// `live`, `deleted` or `absent`.
    pub const fn state(&self) -> &'static str {
        match self {
            Self::Row(entry) => match entry.state {
                State::Live => State::Live.name(),
                State::Deleted => State::Deleted.name(),
            },
            Self::Absent => "absent",
        }
    }
}

/// What a pointer in Redis leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// There is no pointer.
    Nothing,
    /// The row of this id.
    Id(Uuid),
    /// It is no id.
    Foreign,
}

impl Cache {
    /// What Redis holds of these rows, in their order. The process and its floors have no say in it.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn inspect(&self, keys: &[Key]) -> Result<Vec<Held>, Unreachable> {
        let era = self.0.reached().await?;
        let Some(run) = &era.run else {
            return Ok(keys.iter().map(|key| Held::nothing(era.row(key))).collect());
        };
        let calls = keys.iter().map(|key| async {
            let name = era.row(key);
            type Answer = (String, Field, Field, Field, Field, i64, i64);
            let answer: Answer = eval(run, INSPECT, &name, &[]).await?;
            Ok::<_, RedisError>(self.0.held(key, name, answer))
        });
        run.all("inspect", try_join_all(calls), &mut Budget::new(PATIENCE)).await
    }

    /// The name in Redis and what it leads to, for each of these pointers.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn inspect_pointers(&self, pointers: &[Pointer]) -> Result<Vec<(String, Target)>, Unreachable> {
        let era = self.0.reached().await?;
        let named = pointers.iter().map(|pointer| era.pointer(pointer));
        let Some(run) = &era.run else {
            return Ok(named.map(|name| (name, Target::Nothing)).collect());
        };
        let calls = named.map(|name| async {
            let mut get = redis::cmd("GET");
            get.arg(&name);
            let target = match run.command::<Field>(&name, &get).await? {
                None => Target::Nothing,
                Some(id) => Uuid::try_parse_ascii(&id).map_or(Target::Foreign, Target::Id),
            };
            Ok::<_, RedisError>((name, target))
        });
        run.all("inspect", try_join_all(calls), &mut Budget::new(PATIENCE)).await
    }

    /// Drops what Redis holds of these rows, each with the version its row has now (0: there is none), and leaves floors, so
    /// that nobody stores anything older. A newer value that a writer has just stored goes as well, which costs a miss.
    ///
    /// # Errors
    /// If Redis has not confirmed all of them.
    pub async fn drop_entries(&self, rows: &[(Key, Version)]) -> Result<(), Unreachable> {
        let era = self.0.reached().await?;
        let Some(run) = &era.run else { return Ok(()) };
        let calls = rows.iter().map(|(key, version)| self.0.drop_value(run, era.row(key), *version, b""));
        run.all("drop", try_join_all(calls), &mut Budget::new(PATIENCE)).await.map(drop)
    }

    /// Drops what was found, unless somebody has replaced it since, and leaves a floor at `version` of the row. Tells whether
    /// it was there still.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn repair(&self, key: &Key, held: &Held, version: Version) -> Result<bool, Unreachable> {
        let era = self.0.reached().await?;
        let (Some(run), Some(value)) = (&era.run, &held.value) else { return Ok(false) };
        let dropped = self.0.drop_value(run, era.row(key), version, &value.data);
        run.all("drop", dropped, &mut Budget::new(PATIENCE)).await
    }

    /// Removes pointers: whoever looks for what they led to asks the truth.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn unlink(&self, pointers: &[Pointer]) -> Result<(), Unreachable> {
        let era = self.0.reached().await?;
        let Some(run) = &era.run else { return Ok(()) };
        let names: Vec<_> = pointers.iter().map(|pointer| era.pointer(pointer)).collect();
        run.unlink(&names, &mut Budget::new(PATIENCE)).await
    }
}

type Field = Option<Vec<u8>>;

impl Inner {
    /// The era whose run of Redis answers: a process that has just started may not have found Redis yet.
    async fn reached(&self) -> Result<Arc<Era>, Unreachable> {
        if let Some(redis) = &self.redis {
            redis.ping(&mut Budget::new(PATIENCE)).await?;
        }
        Ok(self.era())
    }

    fn held(
        &self,
        key: &Key,
        name: String,
        (kind, version, data, floor, token, lease, left): (String, Field, Field, Field, Field, i64, i64),
    ) -> Held {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let millis = |left: i64| Duration::from_millis(left.max(0).unsigned_abs());
        // A hash without one of the two fields, or no hash: nothing that we have written.
        let foreign = kind != "hash" && kind != "none";
        let value = (version.is_some() || data.is_some() || foreign).then(|| {
            let (version, data) = (version.unwrap_or_default(), Bytes::from(data.unwrap_or_default()));
            let line = data.split(|&byte| byte == b'\n').next().unwrap_or_default();
            Value {
                decoded: entry::decode(self.settings.schema, key, &version, &data),
                version: text(&version),
                line: if foreign { format!("a {kind}") } else { text(&line[..line.len().min(200)]) },
                bytes: data.len(),
                data,
            }
        });
        Held {
            name,
            value,
            floor: floor.and_then(|floor| text(&floor).parse().ok()),
            lease: token.map(|token| Lease { token: text(&token), left: millis(lease) }),
            left: (left >= 0).then(|| millis(left)),
        }
    }

    async fn drop_value(
        &self,
        run: &Run,
        name: String,
        version: Version,
        data: &[u8],
    ) -> Result<bool, RedisError> {
        let (version, life) = (version.to_string(), self.settings.floor.as_millis().to_string());
        eval(run, DROP, &name, &[version.as_bytes(), life.as_bytes(), data]).await
    }
}

/// Runs a script that touches one key, by its text: it is called too seldom to be loaded.
async fn eval<T: redis::FromRedisValue>(
    run: &Run,
    script: &str,
    name: &str,
    arguments: &[&[u8]],
) -> Result<T, RedisError> {
    let mut call = redis::cmd("EVAL");
    call.arg(script).arg(1).arg(name).arg(arguments);
    run.command(name, &call).await
}
