//! Which of their columns is which of our fields: `email:mail,name:full_name`.

use serde_json::{Map, Value};

use super::row::FIELDS;
use crate::{api::body::wrong, error::FieldError};

/// Pairs of our field and their column. With them all other columns are passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns(Vec<(&'static str, String)>);

impl std::str::FromStr for Columns {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pairs: Vec<(&'static str, String)> = vec![];
        for pair in text.split(',') {
            let (ours, theirs) = pair.split_once(':').ok_or("Must look like email:mail,name:full_name")?;
            let known = FIELDS.iter().find(|field| **field == ours.trim());
            let ours = *known.ok_or("Names no field before a colon; see the fields of a row")?;
            let theirs = theirs.trim();
            if !(1..=255).contains(&theirs.len()) {
                return Err("Names no column behind a colon");
            }
            if pairs.iter().any(|(field, column)| *field == ours || column == theirs) {
                return Err("Names a field or a column twice");
            }
            pairs.push((ours, theirs.to_owned()));
        }
        Ok(Self(pairs))
    }
}

impl Columns {
    /// Our fields in the place of theirs, and nothing else.
    pub(super) fn rename(&self, mut object: Map<String, Value>) -> Map<String, Value> {
        let renamed = |(ours, theirs): &(&'static str, String)| {
            object.remove(theirs).map(|value| ((*ours).to_owned(), value))
        };
        self.0.iter().filter_map(renamed).collect()
    }
}

/// Which field is in each cell of a row; none: it is passed over.
pub(super) type Layout = Vec<Option<&'static str>>;

/// Reads a header. Says every column that is missing, there twice, or not known.
pub(super) fn layout(header: &[&str], columns: Option<&Columns>) -> Result<Layout, Vec<FieldError>> {
    let mut errors = vec![];
    let field = |name: &str| match columns {
        Some(Columns(pairs)) => pairs.iter().find(|(_, theirs)| theirs == name.trim()).map(|(ours, _)| *ours),
        None => FIELDS.iter().copied().find(|field| field.eq_ignore_ascii_case(name.trim())),
    };
    let layout: Layout = header.iter().map(|name| field(name)).collect();
    if columns.is_none() && layout.iter().any(Option::is_none) {
        let unknown = header.iter().zip(&layout).filter(|(_, field)| field.is_none());
        // What comes from the client: enough of it to be found.
        let shown = |name: &str| format!("{:?}", name.trim().chars().take(40).collect::<String>());
        let unknown: Vec<_> = unknown.map(|(name, _)| shown(name)).take(5).collect();
        let message = format!(
            "There are no fields {}; map the columns, and others are passed over",
            unknown.join(", ")
        );
        errors.push(wrong("columns", "unknown_field", &message));
    }
    let wanted = match columns {
        Some(Columns(pairs)) => pairs.iter().map(|(ours, _)| *ours).collect(),
        None => vec![],
    };
    for field in FIELDS {
        let there = layout.iter().filter(|cell| **cell == Some(*field)).count();
        let is_needed = ["email", "name"].contains(field) || wanted.contains(field);
        if there > 1 {
            errors.push(wrong("columns", "repeated", &format!("There are {there} columns for {field}")));
        } else if there == 0 && is_needed {
            errors.push(wrong("columns", "missing", &format!("There is no column for {field}")));
        }
    }
    if errors.is_empty() { Ok(layout) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(header: &[&str], columns: Option<&str>) -> Vec<String> {
        let columns = columns.map(|text| text.parse::<Columns>().expect(text));
        let errors = layout(header, columns.as_ref()).err().unwrap_or_default();
        errors.into_iter().map(|error| error.code).collect()
    }

    #[test]
    fn a_header_names_each_field_once() {
        assert_eq!(codes(&["Email", " name ", "role"], None), [""; 0]);
        assert_eq!(codes(&["email", "full_name"], None), ["unknown_field", "missing"]);
        assert_eq!(codes(&["email", "EMAIL", "name"], None), ["repeated"]);
        assert_eq!(codes(&["id", "mail", "full name"], Some("email:mail,name:full name")), [""; 0]);
        assert_eq!(codes(&["mail", "mail", "n"], Some("email:mail,name:n,role:r")), ["repeated", "missing"]);
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        for text in ["", "email", "email:", "age:age", "email:a,email:b", "email:a,name:a", "email:a,"] {
            assert!(text.parse::<Columns>().is_err(), "{text:?}");
        }
    }
}
