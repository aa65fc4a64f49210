//! What must hold of everything that is parsed here, whatever it is: checked with random input by the tests below, and with
//! input that looks for a way by the fuzz targets (fuzz/), which call the same functions. Bytes become what is parsed.

use arbitrary::{Result, Unstructured};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::DateTime;
use serde_json::json;
use uuid::Uuid;

use crate::{
    ApiKeyId, TenantId, UserId,
    api_keys::{Presented, secret},
    encryption::{Encryption, Key},
    fields::{Email, FromText, Name, NewPassword, Secret, Slug},
    second_factor::Code,
    tokens,
    users::{Filter, Order, Position, Selection, SortBy},
};

/// A cursor leads to its place in its list, with any byte changed to none, and text of others nowhere.
pub fn cursor(data: &[u8]) {
    let _ = with(data, |u| {
        let encryption = Encryption::default();
        let key = Key::new([7; 32]);
        encryption.replace(key.clone(), [key]);
        let (tenant, list) = (TenantId(uuid(u)?), selection(u)?);
        let text: String = u.arbitrary::<String>()?.chars().take(255).collect();
        let micros = u.int_in_range(-(1_i64 << 55)..=1 << 55)?;
        let key = match list.sort_by {
            SortBy::CreatedAt | SortBy::LastLoginAt => json!({"Time": micros}),
            SortBy::Email | SortBy::Name => json!({"Text": text}),
        };
        let rank = list.filter.search.is_some().then_some(1);
        let place = json!({"rank": rank, "key": key, "id": UserId(uuid(u)?), "wide": u.arbitrary::<bool>()?});
        let place: Position = serde_json::from_value(place).expect_law("a place");
        let read = |cursor: &str| Position::from_cursor(cursor, &encryption, tenant, &list).ok();

        let cursor = place.to_cursor(&encryption, tenant, &list).expect_law("a cursor");
        assert_eq!(read(&cursor).as_ref(), Some(&place));
        let other = changed(&cursor, u)?;
        assert!(other == cursor || read(&other).is_none(), "a changed cursor leads somewhere");
        assert_eq!(read(u.arbitrary()?), None);
        Ok(())
    });
}

fn selection(u: &mut Unstructured<'_>) -> Result<Selection> {
    let filter = Filter { search: u.arbitrary()?, is_active: u.arbitrary()?, ..Filter::default() };
    let sorts = [SortBy::CreatedAt, SortBy::Email, SortBy::Name, SortBy::LastLoginAt];
    let filter =
        Filter { created_after: DateTime::from_timestamp(i64::from(u.arbitrary::<i32>()?), 0), ..filter };
    Ok(Selection { filter, sort_by: *u.choose(&sorts)?, order: *u.choose(&[Order::Asc, Order::Desc])? })
}

/// A refresh token or one of a mail says its tenant, has one text, and with any byte changed is another.
pub fn token(data: &[u8]) {
    let _ = with(data, |u| {
        let bytes: [u8; 48] = u.arbitrary()?;
        let parse = |text: &str| Secret::from_text(text).ok().and_then(|secret| tokens::parse(&secret).ok());
        let text = URL_SAFE_NO_PAD.encode(bytes);

        let (tenant, hash) = parse(&text).expect_law("a token");
        assert_eq!(tenant.0.as_bytes(), &bytes[..16]);
        let other = changed(&text, u)?;
        assert!(
            other == text || parse(&other).is_none_or(|(_, other)| other != hash),
            "two texts of one token"
        );
        let any: &str = u.arbitrary()?;
        if parse(any).is_some() {
            assert_eq!(URL_SAFE_NO_PAD.encode(URL_SAFE_NO_PAD.decode(any).expect_law("base64")), any);
        }
        Ok(())
    });
}

/// An API key says its tenant and its id, and with any byte changed is none.
pub fn api_key(data: &[u8]) {
    let _ = with(data, |u| {
        let (tenant, id) = (TenantId(uuid(u)?), ApiKeyId(uuid(u)?));
        let key = secret::Secret::of(tenant, u.arbitrary()?).with_id(id);

        let presented = Presented::parse(&key.text).expect_law("a key");
        assert_eq!((presented.tenant(), presented.id, presented.digest()), (tenant, id, &key.hash[..]));
        assert!(Presented::looks_like_one(&key.text));
        let other = changed(&key.text, u)?;
        assert!(other == key.text || Presented::parse(&other).is_none(), "a mistyped key is one");
        let any: &str = u.arbitrary()?;
        assert!(Presented::parse(any).is_none() || Presented::looks_like_one(any));
        Ok(())
    });
}

/// What is stored of an address, a name or a slug is read as itself; what is refused is not told again.
pub fn fields(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(email) = Email::from_text(text) {
        assert!(email.as_str().is_ascii() && email.as_str().len() <= 254 && !email.as_str().contains(' '));
        assert_eq!(Email::from_text(email.as_str()).as_ref(), Ok(&email));
    }
    if let Ok(name) = Name::from_text(text) {
        assert!(
            (1..=255).contains(&name.as_str().chars().count())
                && !name.as_str().chars().any(char::is_control)
        );
        assert_eq!(Name::from_text(name.as_str()).as_ref(), Ok(&name));
    }
    if let Ok(slug) = Slug::from_text(text) {
        assert_eq!(slug.as_str(), text);
        assert!(Uuid::try_parse(text).is_err(), "a slug that is an id");
    }
    if let Ok(secret) = Secret::from_text(text) {
        assert_eq!(secret.expose(), text);
        assert!((1..=1024).contains(&text.len()));
    }
    if let Ok(password) = NewPassword::from_text(text) {
        assert_eq!(password.expose(), text);
        assert!(text.chars().count() >= 8 && text.chars().any(char::is_uppercase));
    }
    // Blanks, hyphens and the case of letters do not matter.
    let squeezed: String =
        text.chars().filter(|c| !" -".contains(*c)).map(|c| c.to_ascii_lowercase()).collect();
    if Code::from_text(text).is_ok() {
        assert!(Code::from_text(&squeezed).is_ok());
    }
}

fn uuid(u: &mut Unstructured<'_>) -> Result<Uuid> {
    Ok(Uuid::from_bytes(u.arbitrary()?))
}

/// The text with one of its characters replaced, all of which are ASCII.
fn changed(text: &str, u: &mut Unstructured<'_>) -> Result<String> {
    let (at, by) = (u.choose_index(text.len())?, char::from(u.int_in_range(b' '..=b'~')?));
    Ok(text.chars().enumerate().map(|(n, c)| if n == at { by } else { c }).collect())
}

/// Where the bytes are not enough there is nothing to check.
fn with(data: &[u8], law: impl FnOnce(&mut Unstructured<'_>) -> Result<()>) -> Result<()> {
    law(&mut Unstructured::new(data))
}

trait ExpectLaw<T> {
    /// What we have made ourselves is there.
    fn expect_law(self, what: &str) -> T;
}

impl<T> ExpectLaw<T> for Option<T> {
    fn expect_law(self, what: &str) -> T {
        self.unwrap_or_else(|| panic!("{what} of ours is refused"))
    }
}

impl<T, E> ExpectLaw<T> for std::result::Result<T, E> {
    fn expect_law(self, what: &str) -> T {
        self.ok().expect_law(what)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    #[test]
    fn what_the_fuzzer_begins_with_keeps_its_law() {
        type Law = fn(&[u8]);
        let laws: [(&str, Law); 4] = [
            ("cursor", super::cursor),
            ("token", super::token),
            ("api_key", super::api_key),
            ("fields", super::fields),
        ];
        for (law, check) in laws {
            let kept =
                std::fs::read_dir(format!("{}/../../fuzz/seeds/{law}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            for input in kept {
                check(&std::fs::read(input.unwrap().path()).unwrap());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn a_cursor_leads_to_its_place_and_nothing_else_does(data in vec(any::<u8>(), 120..900)) {
            super::cursor(&data);
        }

        #[test]
        fn a_token_has_one_text(data in vec(any::<u8>(), 50..200)) {
            super::token(&data);
        }

        #[test]
        fn an_api_key_is_read_back_and_a_mistyped_one_is_none(data in vec(any::<u8>(), 66..200)) {
            super::api_key(&data);
        }

        #[test]
        fn what_is_stored_of_a_field_is_read_as_itself(text in "\\PC{0,40}|[A-Za-z0-9._-]{1,20}@[a-z0-9-]{1,12}\\.[a-z]{2,5}|.{0,300}") {
            super::fields(text.as_bytes());
        }

        #[test]
        fn codes_are_read_with_and_without_hyphens(text in "([A-Z2-7]{4}-?){7}|[0-9]{3} ?[0-9]{3}") {
            super::fields(text.as_bytes());
        }
    }
}
