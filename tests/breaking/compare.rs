//! What breaks clients between two OpenAPI documents: those who were made for the old one and call a service of the new one.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::schema::{Direction, Findings, Schemas, name};

/// What breaks, one line each, as the changelog has to record it.
pub(crate) fn breaking(old: &Value, new: &Value) -> BTreeSet<String> {
    let mut findings = Findings::default();
    for (path, methods) in members(&old["paths"]) {
        for (method, operation) in members(methods) {
            let place = operation["operationId"].as_str().unwrap_or_default().to_owned();
            let mut comparison = Comparison { old, new, place, findings: &mut findings };
            match new["paths"][path].get(method) {
                None => comparison.says("the operation is gone".into()),
                Some(now) => comparison.operation(operation, now),
            }
        }
    }
    findings.lines
}

struct Comparison<'a> {
    old: &'a Value,
    new: &'a Value,
    /// What is compared: an operation, or an answer that several share.
    place: String,
    findings: &'a mut Findings,
}

impl Comparison<'_> {
    fn operation(&mut self, old: &Value, new: &Value) {
        if old["operationId"] != new["operationId"] {
            self.says(format!("it is called {} now", new["operationId"]));
        }
        self.callers(old, new);
        self.parameters(old, new);
        self.body(&old["requestBody"], &new["requestBody"]);
        self.answers(&old["responses"], &new["responses"]);
    }

    fn says(&mut self, what: String) {
        self.findings.lines.insert(format!("{}: {what}", self.place));
    }

    /// Who may call it.
    fn callers(&mut self, old: &Value, new: &Value) {
        let open = |operation: &Value| operation["security"].as_array().is_some_and(Vec::is_empty);
        if open(old) && !open(new) {
            self.says("it asks for a credential now".into());
            return;
        }
        let rank = |operation: &Value| {
            let role = operation["x-required-role"].as_str().unwrap_or_default().to_owned();
            ["", "user", "admin", "super_admin"].iter().position(|known| *known == role)
        };
        if rank(new) > rank(old) {
            self.says(format!("it takes the role {} now", new["x-required-role"]));
        }
        let scope = &old["x-api-key-scope"];
        if !scope.is_null() && new["x-api-key-scope"] != *scope {
            self.says(format!("API keys with {scope} may not call it any more"));
        }
    }

    fn parameters(&mut self, old: &Value, new: &Value) {
        let (old, new) = (list(&old["parameters"]), list(&new["parameters"]));
        let name = |parameter: &Value| format!("{} {}", text(parameter, "in"), text(parameter, "name"));
        for before in old {
            let Some(after) = new.iter().find(|after| name(after) == name(before)) else {
                self.says(format!("the parameter {} is gone", name(before)));
                continue;
            };
            if after["required"] == true && before["required"] != true {
                self.says(format!("the parameter {} is required now", name(before)));
            }
            let at = format!("the parameter {}", name(before));
            self.schemas(&at, Direction::Asked, &before["schema"], &after["schema"]);
        }
        for after in new.iter().filter(|after| after["required"] == true) {
            if !old.iter().any(|before| name(before) == name(after)) {
                self.says(format!("the parameter {} is new and required", name(after)));
            }
        }
    }

    fn body(&mut self, old: &Value, new: &Value) {
        if old.is_null() {
            if new["required"] == true {
                self.says("it takes a body now".into());
            }
            return;
        }
        if old["required"] != true && new["required"] == true {
            self.says("the body is required now".into());
        }
        self.content("the body", Direction::Asked, &old["content"], &new["content"]);
    }

    fn answers(&mut self, old: &Value, new: &Value) {
        for (status, answer) in members(old) {
            let Some(now) = new.get(status) else {
                self.says(format!("{status} is gone"));
                continue;
            };
            let (before, after) = (resolve(self.old, answer).clone(), resolve(self.new, now).clone());
            match name(answer) {
                None => self.answer(status, &before, &after),
                Some(shared) => {
                    let outer = std::mem::replace(&mut self.place, shared.to_owned());
                    self.answer("it", &before, &after);
                    self.place = outer;
                }
            }
        }
        // Clients know what success looks like; a new error is an error.
        for (status, _) in members(new).filter(|(status, _)| status.starts_with(['2', '3'])) {
            if old.get(status).is_none() {
                self.says(format!("{status} is new"));
            }
        }
    }

    fn answer(&mut self, at: &str, old: &Value, new: &Value) {
        for (header, _) in members(&old["headers"]) {
            if !members(&new["headers"]).any(|(name, _)| name.eq_ignore_ascii_case(header)) {
                self.says(format!("{at} has no header {header} any more"));
            }
        }
        self.content(at, Direction::Told, &old["content"], &new["content"]);
    }

    fn content(&mut self, at: &str, direction: Direction, old: &Value, new: &Value) {
        for (kind, media) in members(old) {
            match new.get(kind) {
                None => self.says(format!("{at} is never {kind} any more")),
                Some(now) => {
                    let at = if members(old).count() > 1 { format!("{at} as {kind}") } else { at.to_owned() };
                    self.schemas(&at, direction, &media["schema"], &now["schema"]);
                }
            }
        }
    }

    fn schemas(&mut self, at: &str, direction: Direction, old: &Value, new: &Value) {
        let place = format!("{}: {at}", self.place);
        let (old_document, new_document) = (self.old, self.new);
        let findings = &mut *self.findings;
        Schemas { old: old_document, new: new_document, direction, place, findings }.compare("", old, new);
    }
}

/// What a reference refers to.
pub(crate) fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

pub(crate) fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
