//! What is cached, and its form in Redis.
//!
//! A stored value is one line of text, then the body as it is:
//!
//! ```text
//! <schema> <kind>:<tenant>:<id> <version> live|deleted <length of the body>\n<body>
//! ```
//!
//! The line repeats what the reader knows already (schema, name, version), so reading is a comparison and no parsing,
//! and a value that got under another row's key, was written by another release, or was cut, is not taken for this row.
//! Of a row that does not exist it is `... 0 absent 0\n`.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Key, Loaded};

/// The version of a row: raised by one in each of its updates under the row lock, and its ETag. The first is 1.
pub type Version = i64;

/// One row as it is cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The version of the row that `body` shows; both must come from one `select` of the row.
    pub version: Version,
    /// Whether the row is there or has been deleted.
    pub state: State,
    /// The public form of the row, serialised once; may be empty for a deleted one.
    pub body: Bytes,
}

/// Whether a row is there. A deleted row is an entry with a version like any other, so that a deletion spreads as an
/// update does; it is answered with 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The row is there.
    Live,
    /// The row has been (softly) deleted.
    Deleted,
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Deleted => "deleted",
        }
    }
}

/// What is known of a row: its entry, or that there is none. It is older than every entry, as a version 0 would be.
pub(crate) type Known = Option<Arc<Entry>>;

/// The version by which floors and minimum versions judge what is known.
pub(crate) fn version(known: &Known) -> Version {
    known.as_ref().map_or(ABSENT, |entry| entry.version)
}

/// Stands in for the version of a row that does not exist.
const ABSENT: Version = 0;

/// The stored form of what is known.
pub(crate) fn encode(schema: &str, key: &Key, known: &Known) -> Vec<u8> {
    let Some(entry) = known else { return absent(schema, key).into_bytes() };
    let header = line(schema, key, entry.version, entry.state, entry.body.len());
    [header.as_bytes(), &entry.body].concat()
}

fn line(schema: &str, key: &Key, version: Version, state: State, length: usize) -> String {
    let mut line = String::with_capacity(schema.len() + 128);
    line.push_str(schema);
    line.push(' ');
    key.write(&mut line);
    // Past the machinery of formats: a read of Redis writes it once or twice.
    let mut number = itoa::Buffer::new();
    for part in [" ", number.format(version), " ", state.name(), " "] {
        line.push_str(part);
    }
    line.push_str(number.format(length));
    line.push('\n');
    line
}

fn absent(schema: &str, key: &Key) -> String {
    format!("{schema} {key} {ABSENT} absent 0\n")
}

/// What `data` says, stored beside the field `version`; `None` unless every byte of its line is what [`encode`] would
/// have written there. The body is not copied.
pub(crate) fn decode(schema: &str, key: &Key, version: &[u8], data: &Bytes) -> Option<Loaded> {
    let version = std::str::from_utf8(version).ok()?.parse().ok()?;
    if version == ABSENT {
        return (*data == absent(schema, key)).then_some(Loaded::Absent);
    }
    let line = data.iter().position(|&byte| byte == b'\n')? + 1;
    let body = data.slice(line..);
    [State::Live, State::Deleted].into_iter().find_map(|state| {
        let expected = self::line(schema, key, version, state, body.len());
        (data[..line] == *expected.as_bytes())
            .then(|| Loaded::Row(Entry { version, state, body: body.clone() }))
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const KEY: Key = Key::new("u", Uuid::from_u128(1), Uuid::from_u128(2));

    fn entry() -> Entry {
        Entry { version: 7, state: State::Live, body: Bytes::from_static(b"{\"name\":\"Ada\"}\n") }
    }

    fn known() -> Known {
        Some(Arc::new(entry()))
    }

    #[test]
    fn what_was_stored_is_what_is_read() {
        for state in [State::Live, State::Deleted] {
            let entry = Entry { state, ..entry() };
            let data = encode("users/1", &KEY, &Some(Arc::new(entry.clone()))).into();
            assert_eq!(decode("users/1", &KEY, b"7", &data), Some(Loaded::Row(entry)));
        }
    }

    #[test]
    fn that_there_is_no_row_has_version_0_and_nothing_else_has() {
        let data = encode("users/1", &KEY, &None).into();
        assert_eq!(decode("users/1", &KEY, b"0", &data), Some(Loaded::Absent));
        assert_eq!(decode("users/1", &KEY, b"1", &data), None);
        assert_eq!(decode("users/2", &KEY, b"0", &data), None);
        let row = Entry { version: 0, ..entry() };
        let data = encode("users/1", &KEY, &Some(Arc::new(row))).into();
        assert_eq!(decode("users/1", &KEY, b"0", &data), None);
    }

    #[test]
    fn no_prefix_of_a_value_is_taken_for_the_value() {
        let data = Bytes::from(encode("users/1", &KEY, &known()));
        for end in 0..data.len() {
            assert_eq!(decode("users/1", &KEY, b"7", &data.slice(..end)), None, "cut at {end}");
        }
    }

    #[test]
    fn a_value_of_another_row_release_or_version_is_foreign() {
        let data = Bytes::from(encode("users/1", &KEY, &known()));
        let other = Key::new("u", Uuid::from_u128(1), Uuid::from_u128(3));
        assert_eq!(decode("users/2", &KEY, b"7", &data), None);
        assert_eq!(decode("users/1", &other, b"7", &data), None);
        assert_eq!(decode("users/1", &KEY, b"8", &data), None);
        assert_eq!(decode("users/1", &KEY, b"seven", &data), None);
    }
}
