//! Objects of one kind in the order in which they were made, and lists of them by page.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::{
    cached::Cached,
    error::{Error, Result},
    form::Params,
};

#[derive(Default)]
pub(crate) struct Table {
    rows: BTreeMap<u64, Cached<Value>>,
    by_id: HashMap<String, u64>,
    by_customer: HashMap<String, BTreeSet<u64>>,
}

/// As the list of its objects.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.values())
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let mut table = Self::default();
        for row in Vec::<Cached<Value>>::deserialize(deserializer)? {
            table.insert(row);
        }
        Ok(table)
    }
}

impl Table {
    pub(crate) fn get(&self, id: &str) -> Option<&Value> {
        self.rows.get(self.by_id.get(id)?).map(|row| &**row)
    }

    /// Stores an object under its `id`; what was there before.
    pub(crate) fn put(&mut self, object: Value) -> Option<Value> {
        self.insert(object.into()).map(Cached::into_inner)
    }

    fn insert(&mut self, object: Cached<Value>) -> Option<Cached<Value>> {
        let id = object["id"].as_str().unwrap_or_default().to_owned();
        let next = self.rows.last_key_value().map_or(0, |(last, _)| last + 1);
        let number = *self.by_id.entry(id).or_insert(next);
        if let Some(customer) = object["customer"].as_str() {
            self.by_customer.entry(customer.to_owned()).or_default().insert(number);
        }
        self.rows.insert(number, object)
    }

    /// Forgets the oldest objects for as long as they are old.
    pub(crate) fn drop_first_while(&mut self, old: impl Fn(&Value) -> bool) {
        while let Some(first) = self.rows.first_entry().filter(|first| old(first.get())) {
            let (number, row) = first.remove_entry();
            self.by_id.remove(row["id"].as_str().unwrap_or_default());
            if let Some(numbers) = row["customer"].as_str().and_then(|c| self.by_customer.get_mut(c)) {
                numbers.remove(&number);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.rows.values().map(|row| &**row)
    }

    pub(crate) fn of_customer(&self, customer: &str) -> Vec<Value> {
        let numbers = self.by_customer.get(customer).into_iter().flatten();
        numbers.filter_map(|number| self.rows.get(number)).map(|row| (**row).clone()).collect()
    }

    /// A page of those that `fits` lets through, newest first. With `customer`, only that one's are looked at.
    pub(crate) fn page(
        &self,
        page: &Page,
        url: &str,
        customer: Option<&str>,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        // What has been deleted marks no place any more.
        let there = |number: &u64| self.rows.get(number).is_some_and(|row| row["deleted"] != true);
        let place = |cursor: &Option<String>, param: &str| match cursor {
            None => Ok(None),
            Some(id) => {
                let number = self.by_id.get(id).copied().filter(there);
                number.map(Some).ok_or_else(|| Error::no_such("object", id, param))
            }
        };
        let (after, before) =
            (place(&page.starting_after, "starting_after")?, place(&page.ending_before, "ending_before")?);
        let (low, high) = (before.map_or(0, |before| before + 1), after.unwrap_or(u64::MAX));
        let wanted = |row: &&Value| row["deleted"] != true && page.created.holds(row) && fits(row);
        let newest_first: Box<dyn DoubleEndedIterator<Item = &Value>> = match customer {
            _ if low >= high => Box::new(std::iter::empty()),
            None => Box::new(self.rows.range(low..high).map(|(_, row)| &**row).rev()),
            Some(customer) => match self.by_customer.get(customer) {
                None => Box::new(std::iter::empty()),
                Some(numbers) => Box::new(
                    numbers.range(low..high).filter_map(|n| self.rows.get(n)).map(|row| &**row).rev(),
                ),
            },
        };
        let size = page.limit + 1;
        let mut data: Vec<Value> = if before.is_some() {
            newest_first.rev().filter(wanted).take(size).cloned().collect()
        } else {
            newest_first.filter(wanted).take(size).cloned().collect()
        };
        let has_more = data.len() > page.limit;
        data.truncate(page.limit);
        if before.is_some() {
            data.reverse();
        }
        Ok(json!({"object": "list", "url": url, "has_more": has_more, "data": data}))
    }
}

/// Which part of a list is asked for.
pub(crate) struct Page {
    limit: usize,
    starting_after: Option<String>,
    ending_before: Option<String>,
    pub(crate) created: Range,
}

impl Page {
    pub(crate) fn read(params: &mut Params) -> Result<Self> {
        let limit = params.integer("limit")?.unwrap_or(10);
        if !(1..=100).contains(&limit) {
            return Err(Error::coded("parameter_invalid_integer", "This value must be between 1 and 100.")
                .about("limit"));
        }
        let page = Self {
            limit: limit as usize,
            starting_after: params.text("starting_after")?,
            ending_before: params.text("ending_before")?,
            created: Range::read(params, "created")?,
        };
        if page.starting_after.is_some() && page.ending_before.is_some() {
            return Err(Error::invalid("You can only pass one of starting_after and ending_before."));
        }
        Ok(page)
    }
}

impl Page {
    /// Refuses a place that is marked by something which `fits` does not let through, if there is such a thing.
    pub(crate) fn begins_among(&self, table: &Table, fits: impl Fn(&Value) -> bool) -> Result<()> {
        let cursors = [(&self.starting_after, "starting_after"), (&self.ending_before, "ending_before")];
        for (cursor, param) in cursors {
            if let Some(id) = cursor.as_deref().filter(|id| table.get(id).is_some_and(|row| !fits(row))) {
                return Err(Error::no_such("object", id, param));
            }
        }
        Ok(())
    }
}

/// `created[gte]=..&created[lt]=..`, or `created=..` for one second.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    from: i64,
    to: i64,
}

impl Range {
    pub(crate) fn read(params: &mut Params, field: &str) -> Result<Self> {
        let mut range = Self { from: i64::MIN, to: i64::MAX };
        if let Ok(Some(mut bounds)) = params.clone().group(field) {
            params.ignore(&[field]);
            for (name, shift, lower) in
                [("gte", 0, true), ("gt", 1, true), ("lte", 0, false), ("lt", -1, false)]
            {
                match bounds.integer(name)? {
                    Some(at) if lower => range.from = range.from.max(at.saturating_add(shift)),
                    Some(at) => range.to = range.to.min(at.saturating_add(shift)),
                    None => {}
                }
            }
            bounds.finish()?;
        } else if let Some(at) = params.integer(field)? {
            range = Self { from: at, to: at };
        }
        Ok(range)
    }

    fn holds(self, row: &Value) -> bool {
        row["created"].as_i64().is_none_or(|created| self.contains(created))
    }

    pub(crate) fn contains(self, at: i64) -> bool {
        (self.from..=self.to).contains(&at)
    }
}
