//! Values that remember how they are written: the state file is written often, and most of it stays as it was.

use std::{ops::Deref, sync::OnceLock};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
    ser::Error as _,
};
use serde_json::value::{RawValue, to_raw_value};

/// A value that is replaced and never changed.
pub(crate) struct Cached<T> {
    value: T,
    text: OnceLock<Box<RawValue>>,
}

impl<T> From<T> for Cached<T> {
    fn from(value: T) -> Self {
        Self { value, text: OnceLock::new() }
    }
}

impl<T> Cached<T> {
    pub(crate) fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Cached<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Serialize> Serialize for Cached<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.text.get() {
            Some(text) => text.serialize(serializer),
            None => {
                let text = to_raw_value(&self.value).map_err(S::Error::custom)?;
                self.text.get_or_init(|| text).serialize(serializer)
            }
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Cached<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let value = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        Ok(Self { value, text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_what_it_is() {
        let value = serde_json::json!({"a": ["ü\n", 1, null]});
        let cached = Cached::from(value.clone());
        for _ in 0..2 {
            let text = serde_json::to_string(&[&cached]).unwrap();
            assert_eq!(text, serde_json::to_string(&[&value]).unwrap());
            assert_eq!(*serde_json::from_str::<Vec<Cached<serde_json::Value>>>(&text).unwrap()[0], value);
        }
    }
}
