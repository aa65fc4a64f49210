//! Form-encoded parameters with brackets: `items[0][price]=price_1&expand[]=customer`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Node {
    Text(String),
    /// A hash, or a list whose keys are numbers.
    Group(BTreeMap<String, Node>),
}

/// Parameters of one level. Reading takes: what is left at the end nobody knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Where these are, such as `items[0]`; empty at the top.
    at: String,
    fields: BTreeMap<String, Node>,
    finished: bool,
}

impl Params {
    /// Reads query strings and bodies alike; later ones are added to earlier ones.
    pub(crate) fn read(&mut self, encoded: &[u8]) -> Result<()> {
        for pair in encoded.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let (name, value) = (decode(halves.next())?, decode(halves.next())?);
            self.set(&name, &value)?;
        }
        Ok(())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let mut parts = name.split('[');
        let first = parts.next().unwrap_or_default();
        let path: Vec<String> = parts.map(|part| part.trim_end_matches(']').to_owned()).collect();
        insert(&mut self.fields, first, &path, value.to_owned())
    }

    /// Nothing may be left that was not asked for. To be called before anything is changed.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.finished = true;
        match self.fields.keys().next() {
            Some(name) => Err(Error::unknown_parameter(&self.name(name))),
            None => Ok(()),
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    pub(crate) fn name(&self, field: &str) -> String {
        if self.at.is_empty() { field.to_owned() } else { format!("{}[{field}]", self.at) }
    }

    /// Parameters that Stripe has and this fake takes without doing anything.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.fields.remove(*name);
        }
    }

    pub(crate) fn text(&mut self, field: &str) -> Result<Option<String>> {
        match self.fields.remove(field) {
            None => Ok(None),
            Some(Node::Text(text)) => Ok(Some(text)),
            Some(Node::Group(_)) => {
                Err(Error::invalid(format!("Invalid string: {}", self.name(field))).about(self.name(field)))
            }
        }
    }

    /// An empty string takes a value away: `Some(Value::Null)`.
    pub(crate) fn nullable(&mut self, field: &str) -> Result<Option<Value>> {
        Ok(self.text(field)?.map(|text| if text.is_empty() { Value::Null } else { Value::String(text) }))
    }

    pub(crate) fn required(&mut self, field: &str) -> Result<String> {
        self.text(field)?.filter(|text| !text.is_empty()).ok_or_else(|| Error::missing(&self.name(field)))
    }

    pub(crate) fn integer(&mut self, field: &str) -> Result<Option<i64>> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let wrong = |_| {
            let name = self.name(field);
            Error::coded("parameter_invalid_integer", format!("Invalid integer: {text}")).about(name)
        };
        text.parse().map(Some).map_err(wrong)
    }

    pub(crate) fn boolean(&mut self, field: &str) -> Result<Option<bool>> {
        match self.text(field)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Error::invalid(format!("Invalid boolean: {other}")).about(self.name(field))),
        }
    }

    /// One of a few words.
    pub(crate) fn choice(&mut self, field: &str, choices: &[&str]) -> Result<Option<String>> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        if choices.contains(&text.as_str()) {
            return Ok(Some(text));
        }
        let message = format!("Invalid {}: must be one of {}", self.name(field), choices.join(", "));
        Err(Error::invalid(message).about(self.name(field)))
    }

    pub(crate) fn group(&mut self, field: &str) -> Result<Option<Params>> {
        let at = self.name(field);
        match self.fields.remove(field) {
            None => Ok(None),
            Some(Node::Group(fields)) => Ok(Some(Params { at, fields, finished: false })),
            Some(Node::Text(_)) => Err(Error::invalid(format!("Invalid hash: {at}")).about(at)),
        }
    }

    /// A hash, or an empty string that takes it away.
    pub(crate) fn nullable_group(&mut self, field: &str) -> Result<Option<Option<Params>>> {
        if matches!(self.fields.get(field), Some(Node::Text(text)) if text.is_empty()) {
            self.fields.remove(field);
            return Ok(Some(None));
        }
        Ok(self.group(field)?.map(Some))
    }

    /// A list of hashes, in the order of their numbers.
    pub(crate) fn list(&mut self, field: &str) -> Result<Option<Vec<Params>>> {
        let Some(mut list) = self.group(field)? else { return Ok(None) };
        let keys = list.numbers()?;
        keys.iter().map(|key| list.group(key).map(Option::unwrap_or_default)).collect::<Result<_>>().map(Some)
    }

    pub(crate) fn texts(&mut self, field: &str) -> Result<Vec<String>> {
        let Some(mut list) = self.group(field)? else { return Ok(vec![]) };
        let keys = list.numbers()?;
        keys.iter().map(|key| list.text(key).map(Option::unwrap_or_default)).collect()
    }

    fn numbers(&self) -> Result<Vec<String>> {
        let mut keys: Vec<(u32, String)> = vec![];
        for key in self.fields.keys() {
            let number = key.parse().map_err(|_| Error::invalid("Invalid array").about(self.at.clone()))?;
            keys.push((number, key.clone()));
        }
        keys.sort();
        Ok(keys.into_iter().map(|(_, key)| key).collect())
    }

    /// Merges `metadata[key]=value` into what there is: an empty value removes its key, an empty hash all.
    pub(crate) fn metadata(&mut self, object: &mut Value) -> Result<()> {
        let Some(given) = self.nullable_group("metadata")? else { return Ok(()) };
        let mut metadata = object["metadata"].as_object().cloned().unwrap_or_default();
        match given {
            None => metadata.clear(),
            Some(mut given) => {
                for key in given.fields.keys().cloned().collect::<Vec<_>>() {
                    match given.text(&key)?.unwrap_or_default() {
                        value if value.is_empty() => metadata.remove(&key),
                        value => metadata.insert(key, Value::String(value)),
                    };
                }
            }
        }
        object["metadata"] = Value::Object(metadata);
        Ok(())
    }
}

fn insert(fields: &mut BTreeMap<String, Node>, key: &str, path: &[String], value: String) -> Result<()> {
    let Some((next, rest)) = path.split_first() else {
        fields.insert(key.to_owned(), Node::Text(value));
        return Ok(());
    };
    let node = fields.entry(key.to_owned()).or_insert_with(|| Node::Group(BTreeMap::new()));
    let Node::Group(inner) = node else {
        return Err(Error::invalid(format!("Invalid parameter: {key}")).about(key));
    };
    if next.is_empty() {
        let number = inner.len().to_string();
        return insert(inner, &number, rest, value);
    }
    insert(inner, next, rest, value)
}

fn decode(encoded: Option<&[u8]>) -> Result<String> {
    let encoded = encoded.unwrap_or_default();
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits =
                    [rest.next(), rest.next()].map(|digit| digit.and_then(|d| (*d as char).to_digit(16)));
                match digits {
                    [Some(high), Some(low)] => (high * 16 + low) as u8,
                    _ => return Err(Error::invalid("Invalid percent-encoding")),
                }
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid("Invalid UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(encoded: &str) -> Params {
        let mut params = Params::default();
        params.read(encoded.as_bytes()).unwrap();
        params
    }

    #[test]
    fn brackets_make_hashes_and_lists() {
        let mut params = read("items[1][price]=b&items[0][price]=a%20+c&expand[]=x&expand[]=y&expand[]=z");

        let prices: Vec<_> = params
            .list("items")
            .unwrap()
            .unwrap()
            .iter_mut()
            .map(|item| item.required("price").unwrap())
            .collect();
        assert_eq!(prices, ["a  c", "b"]);
        assert_eq!(params.texts("expand").unwrap(), ["x", "y", "z"]);
        assert!(params.finish().is_ok());
    }

    #[test]
    fn a_list_keeps_its_order_beyond_ten() {
        let encoded: Vec<String> = (0..12).map(|n| format!("x[{n}]={n}")).collect();
        let numbers = read(&encoded.join("&")).texts("x").unwrap();
        assert_eq!(numbers, (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn an_unknown_parameter_is_named_with_its_place() {
        let mut params = read("items[0][prise]=a");
        let mut item = params.list("items").unwrap().unwrap().remove(0);
        assert_eq!(item.finish().unwrap_err().body()["error"]["param"], "items[0][prise]");
    }

    #[test]
    fn metadata_is_merged_and_taken_away() {
        let mut object = serde_json::json!({"metadata": {"a": "1", "b": "2"}});
        read("metadata[a]=&metadata[c]=3").metadata(&mut object).unwrap();
        assert_eq!(object["metadata"], serde_json::json!({"b": "2", "c": "3"}));
        read("metadata=").metadata(&mut object).unwrap();
        assert_eq!(object["metadata"], serde_json::json!({}));
    }
}
