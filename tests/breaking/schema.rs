//! What breaks clients between two schemas. It depends on who writes what they describe: we may take more than before, and say
//! less.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::compare::{list, members, resolve};

/// Who writes what a schema describes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// Clients do.
    Asked,
    /// We do.
    Told,
}

impl Direction {
    fn place(self) -> &'static str {
        match self {
            Self::Asked => "in requests",
            Self::Told => "in answers",
        }
    }
}

/// What was found in two documents so far.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) lines: BTreeSet<String>,
    /// Schemas with names that have been compared: each is told of once, not at every operation, and may hold itself.
    followed: BTreeSet<(String, String, Direction)>,
}

/// A comparison of two schemas and all that they refer to.
pub(crate) struct Schemas<'a> {
    pub(crate) old: &'a Value,
    pub(crate) new: &'a Value,
    pub(crate) direction: Direction,
    /// Where they are: at an operation, or the name of the schema around.
    pub(crate) place: String,
    pub(crate) findings: &'a mut Findings,
}

impl Schemas<'_> {
    /// Compares what stands at a JSON pointer.
    pub(crate) fn compare(&mut self, at: &str, old: &Value, new: &Value) {
        let nullable = [old, new].map(|schema| schema["nullable"] == true);
        let (old, new) = (only_part(old), only_part(new));
        let Some((before, after)) = name(old).zip(name(new)) else {
            return self.contents(at, nullable, old, new);
        };
        self.null(at, nullable[0], nullable[1]);
        if self.findings.followed.insert((before.to_owned(), after.to_owned(), self.direction)) {
            let inner = format!("{before} {}", self.direction.place());
            let outer = std::mem::replace(&mut self.place, inner);
            self.contents("", [false; 2], old, new);
            self.place = outer;
        }
    }

    fn contents(&mut self, at: &str, nullable: [bool; 2], old: &Value, new: &Value) {
        let (before, after) = (resolve(self.old, old).clone(), resolve(self.new, new).clone());
        if ["type", "format"].iter().any(|word| before.get(word) != after.get(word)) {
            let kind = |schema: &Value| format!("{} {}", schema["type"], schema["format"]);
            self.says(at, &format!("was {} and is {}", kind(&before), kind(&after)));
            return;
        }
        self.null(at, nullable[0] || before["nullable"] == true, nullable[1] || after["nullable"] == true);
        self.values(at, &before, &after);
        self.bounds(at, &before, &after);
        self.fields(at, &before, &after);
        self.alternatives(at, &before, &after);
        if before.get("items").is_some() {
            self.compare(&format!("{at}/*"), &before["items"], &after["items"]);
        }
    }

    fn says(&mut self, at: &str, what: &str) {
        let at = if at.is_empty() { String::new() } else { format!("{at} ") };
        self.findings.lines.insert(format!("{}: {at}{what}", self.place));
    }

    fn asked(&self) -> bool {
        self.direction == Direction::Asked
    }

    fn null(&mut self, at: &str, was: bool, is: bool) {
        match self.direction {
            Direction::Asked if was && !is => self.says(at, "may not be null any more"),
            Direction::Told if !was && is => self.says(at, "may be null now"),
            _ => {}
        }
    }

    /// Closed lists: clients may send each, and know no others.
    fn values(&mut self, at: &str, before: &Value, after: &Value) {
        let (had, has) = (list(&before["enum"]), list(&after["enum"]));
        let asked = self.asked();
        let (from, to) = if asked { (had, has) } else { (has, had) };
        for value in from.iter().filter(|value| !to.contains(value) && !to.is_empty()) {
            let change = if asked { "is not taken any more" } else { "is a new value" };
            self.says(at, &format!("{value} {change}"));
        }
        if asked && had.is_empty() && !has.is_empty() {
            self.says(at, "is one of a closed list now");
        }
        if !asked && !had.is_empty() && has.is_empty() {
            self.says(at, "is no closed list any more");
        }
    }

    /// We may take more and say less, and not the other way about.
    fn bounds(&mut self, at: &str, before: &Value, after: &Value) {
        let bound = |schema: &Value, name: &str| schema.get(name).and_then(Value::as_f64);
        for (name, is_lower) in [
            ("minimum", true),
            ("minLength", true),
            ("minItems", true),
            ("maximum", false),
            ("maxLength", false),
            ("maxItems", false),
        ] {
            let sign = if is_lower { 1.0 } else { -1.0 };
            let of = |schema: &Value| bound(schema, name).map_or(f64::NEG_INFINITY, |bound| bound * sign);
            let (was, is) = (of(before), of(after));
            if if self.asked() { is > was } else { is < was } {
                let value = |schema: &Value| schema.get(name).map_or("unbounded".into(), Value::to_string);
                self.says(at, &format!("{name} was {} and is {}", value(before), value(after)));
            }
        }
        if self.asked() && after.get("pattern").is_some() && before.get("pattern") != after.get("pattern") {
            self.says(at, "has another pattern");
        }
        if self.asked() && before.get("default") != after.get("default") {
            self.says(at, "has another default");
        }
    }

    fn fields(&mut self, at: &str, before: &Value, after: &Value) {
        let required =
            |schema: &Value, name: &str| list(&schema["required"]).iter().any(|known| known == name);
        for (name, field) in members(&before["properties"]) {
            let here = format!("{at}/{name}");
            let Some(now) = after["properties"].get(name) else {
                self.says(&here, "is gone");
                continue;
            };
            match (required(before, name), required(after, name)) {
                (false, true) if self.asked() => self.says(&here, "is required now"),
                (true, false) if !self.asked() => self.says(&here, "may be missing now"),
                _ => {}
            }
            self.compare(&here, field, now);
        }
        for (name, _) in members(&after["properties"]) {
            let is_new = before["properties"].get(name).is_none();
            if is_new && self.asked() && required(after, name) {
                self.says(&format!("{at}/{name}"), "is new and required");
            }
        }
        if self.asked() && before["additionalProperties"] != false && after["additionalProperties"] == false {
            self.says(at, "takes no other fields any more");
        }
        if before["additionalProperties"].is_object() && after["additionalProperties"].is_object() {
            let here = format!("{at}/*");
            self.compare(&here, &before["additionalProperties"], &after["additionalProperties"]);
        }
    }

    /// One of several, by their order.
    fn alternatives(&mut self, at: &str, before: &Value, after: &Value) {
        for word in ["oneOf", "anyOf", "allOf"] {
            let (had, has) = (list(&before[word]), list(&after[word]));
            if (self.asked() && has.len() < had.len()) || (!self.asked() && has.len() > had.len()) {
                self.says(at, &format!("has {} forms, not {}", has.len(), had.len()));
            }
            for (old, new) in had.iter().zip(has) {
                self.compare(at, old, new);
            }
        }
    }
}

/// The name of what is referred to.
pub(crate) fn name(schema: &Value) -> Option<&str> {
    schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next())
}

/// `allOf` of one is that one.
fn only_part(schema: &Value) -> &Value {
    match list(&schema["allOf"]) {
        [part] => part,
        _ => schema,
    }
}
