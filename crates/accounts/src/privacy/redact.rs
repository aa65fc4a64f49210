//! Taking a person out of an answer that is kept to be given once more.

use serde_json::{Map, Value};

use crate::UserId;

/// Whom it is about.
pub(super) struct Person<'a> {
    pub(super) id: UserId,
    pub(super) addresses: &'a [String],
}

impl Person<'_> {
    /// Overwrites the address wherever it stands, and the name where it stands beside the id or the address.
    pub(super) fn erase_from(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                for address in self.addresses.iter().filter(|address| !address.is_empty()) {
                    if let Some(without) = replaced(text, address, &self.nobody()) {
                        *text = without;
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.erase_from(value)),
            Value::Object(fields) => {
                if self.is(fields) {
                    self.overwrite(fields);
                }
                fields.values_mut().for_each(|value| self.erase_from(value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Whether an object is this user, as answers have users.
    fn is(&self, fields: &Map<String, Value>) -> bool {
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        text("id") == Some(&self.id.to_string())
            || text("email").is_some_and(|email| self.addresses.iter().any(|address| address == email))
    }

    fn overwrite(&self, fields: &mut Map<String, Value>) {
        for (name, nothing) in
            [("email", self.nobody().into()), ("name", "Erased".into()), ("pending_email", Value::Null)]
        {
            if let Some(value) = fields.get_mut(name) {
                *value = nothing;
            }
        }
    }

    fn nobody(&self) -> String {
        format!("erased-{}@erased.invalid", self.id)
    }
}

/// `text` with `by` in the place of each `address` that is one: it may be the end or the beginning of another one.
fn replaced(text: &str, address: &str, by: &str) -> Option<String> {
    let (mut without, mut done) = (String::new(), 0);
    for (at, _) in text.match_indices(address) {
        let (before, behind) = (text[..at].chars().next_back(), &text[at + address.len()..]);
        let begins = !before.is_some_and(|c| c.is_alphanumeric() || "._%+'-".contains(c));
        let mut next = behind.chars();
        let ends = match next.next() {
            Some('.') => !next.next().is_some_and(char::is_alphanumeric),
            Some(c) => !(c.is_alphanumeric() || c == '-'),
            None => true,
        };
        if begins && ends {
            without.push_str(&text[done..at]);
            without.push_str(by);
            done = at + address.len();
        }
    }
    (done > 0).then(|| without + &text[done..])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::users::User;

    #[test]
    fn one_person_is_taken_out_and_nobody_else() {
        let id = UserId::generate();
        let addresses = ["ada@example.org".to_owned()];
        let mut answer = json!({"answer": {"location": "/x", "body": {"data": [
            {"user": {"id": id, "email": "ada@example.org", "name": "Ada", "pending_email": "a@example.org", "version": 1}},
            {"user": {"id": "other", "email": "bob@example.org", "name": "Ada", "pending_email": null, "version": 1}},
            {"id": "invitation", "email": "ada@example.org"}, "to <ada@example.org>.",
            "canada@example.org, ada@example.org.uk and ada@example.organ",
        ]}}});

        Person { id, addresses: &addresses }.erase_from(&mut answer);

        let text = answer.to_string();
        let neighbours = "canada@example.org, ada@example.org.uk and ada@example.organ";
        assert_eq!(answer["answer"]["body"]["data"][4], neighbours);
        let text = text.replace(neighbours, "");
        assert!(!text.contains("ada@example.org") && !text.contains("a@example.org,"), "{text}");
        assert_eq!(answer["answer"]["body"]["data"][0]["user"]["name"], "Erased");
        assert_eq!(answer["answer"]["body"]["data"][0]["user"]["pending_email"], Value::Null);
        assert_eq!(answer["answer"]["body"]["data"][1]["user"]["name"], "Ada");
        // As a user is written.
        let _: fn(&User) -> UserId = |user| user.id;
    }
}
