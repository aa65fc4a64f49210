//! The envelope around every success. Data that is serialised already is copied into it as it is: a cached user is
//! serialised once, when its row is read.

#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;

use std::marker::PhantomData;

use bytes::{BufMut, Bytes, BytesMut};
use chrono::Utc;
use poem::{IntoResponse, Response};
use poem_openapi::{
    ApiResponse, Object,
    payload::Payload,
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;

use super::idempotency::{Keep, Kept};
use crate::{clock, digits::whole};

/// `{"success":true,"data":T,"message":"Success","timestamp":...}`; a list has `pagination` as well, a `P`.
#[derive(Debug)]
pub(crate) struct Envelope<T, P = Pagination> {
    body: Bytes,
    data: PhantomData<(T, P)>,
}

/// Where the next part of a list begins.
#[derive(Debug, Clone, Serialize, Object)]
pub(crate) struct Cursor {
    /// How many a part holds at most.
    pub(crate) limit: i64,
    /// Send it as `cursor` to get the next part; null: this is the last.
    #[oai(nullable)]
    pub(crate) next_cursor: Option<String>,
}

impl Cursor {
    /// Makes a part of at most `limit` out of what was found of one more than that: if there is more, the next part begins
    /// after the last.
    pub(crate) fn cut<T, C: ToString>(mut found: Vec<T>, limit: i64, id: impl Fn(&T) -> C) -> (Vec<T>, Self) {
        let most = usize::try_from(limit).unwrap_or(0);
        let more = found.len() > most;
        found.truncate(most);
        let next_cursor = found.last().filter(|_| more).map(|last| id(last).to_string());
        (found, Self { limit, next_cursor })
    }
}

/// Where a page stands among all.
#[derive(Debug, Clone, Serialize, Object)]
pub(crate) struct Pagination {
    /// The page's number, from 1.
    pub(crate) page: i64,
    /// How many a page holds at most.
    pub(crate) limit: i64,
    /// How many there are in all.
    pub(crate) total: i64,
    /// Whether `total` is no more than an estimate: of a list with more than 10,000 users, or a search that found 1,000, which
    /// are all that it shows; there may be more.
    pub(crate) total_is_estimate: bool,
    /// How many pages that makes. Not all of them can be asked for.
    pub(crate) pages: i64,
}

impl<T, P> Envelope<T, P> {
    /// Around bytes that are the JSON of a `T`.
    pub(crate) fn around(data: &[u8]) -> Self {
        Self::whole(around(data))
    }

    /// One that is written already, around a `T`.
    pub(crate) fn whole(body: Bytes) -> Self {
        Self { body, data: PhantomData }
    }

    /// Around a value that is written as a `T` is.
    pub(crate) fn written(data: &impl Serialize) -> Self {
        Self::around(&json(data))
    }

    /// As it is sent.
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }
}

/// The envelope around bytes that are JSON.
pub(crate) fn around(data: &[u8]) -> Bytes {
    write(data, None)
}

fn write(data: &[u8], pagination: Option<&[u8]>) -> Bytes {
    let mut body = BytesMut::with_capacity(data.len() + pagination.map_or(0, <[u8]>::len) + 128);
    body.put_slice(br#"{"success":true,"data":"#);
    body.put_slice(data);
    if let Some(pagination) = pagination {
        body.put_slice(br#","pagination":"#);
        body.put_slice(pagination);
    }
    body.put_slice(br#","message":"Success","timestamp":""#);
    body.put_slice(clock::now::<3>().as_ref());
    body.put_slice(br#""}"#);
    body.freeze()
}

impl<T> Envelope<T> {
    /// Around users that are serialised already, and the ids that are nobody's.
    pub(crate) fn batch(users: &[&[u8]], missing: &[impl Serialize]) -> Self {
        let (users, missing) = (users.join(&b','), json(missing));
        let data = [br#"{"users":["#.as_slice(), &users, br#"],"missing":"#, &missing, b"}"].concat();
        Self::around(&data)
    }
}

impl<T: Serialize> Envelope<T> {
    /// Around a value.
    pub(crate) fn of(data: &T) -> Self {
        Self::around(&json(data))
    }
}

impl<T, P: Serialize> Envelope<Vec<T>, P> {
    /// Around a page of a list, of what is written as a `T` is.
    pub(crate) fn page(data: &[impl Serialize], pagination: &P) -> Self {
        Self::whole(write(&json(data), Some(&json(pagination))))
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    // Our own types have string keys and finite numbers only; there is nothing in them that JSON cannot say.
    serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec())
}

impl<T: Send, P: Send> IntoResponse for Envelope<T, P> {
    fn into_response(self) -> Response {
        Response::builder().content_type("application/json").body(self.body)
    }
}

/// The schema is named after what it holds: `UserResponse`, `UserListResponse`.
impl<T: Type, P: Type> Payload for Envelope<T, P> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference(schema_name::<T>())
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
        if T::schema_ref().is_array() {
            P::register(registry);
        }
        registry.create_schema::<Self, _>(schema_name::<T>(), |_| {
            let mut schema = MetaSchema::new("object");
            let text = |example: &str| {
                let mut schema = MetaSchema::new("string");
                schema.example = Some(example.into());
                MetaSchemaRef::Inline(Box::new(schema))
            };
            schema.required = vec!["success", "data", "message", "timestamp"];
            schema.properties = vec![
                ("success", bool::schema_ref()),
                ("data", T::schema_ref()),
                ("message", text("Success")),
                ("timestamp", chrono::DateTime::<Utc>::schema_ref()),
            ];
            if T::schema_ref().is_array() {
                schema.required.push("pagination");
                schema.properties.push(("pagination", P::schema_ref()));
            }
            schema
        });
    }
}

fn schema_name<T: Type>() -> String {
    let reference = |schema: &MetaSchemaRef| match schema {
        MetaSchemaRef::Reference(name) => name.clone(),
        MetaSchemaRef::Inline(_) => T::name().into_owned(),
    };
    match T::schema_ref() {
        MetaSchemaRef::Inline(schema) if schema.ty == "array" => {
            format!("{}ListResponse", schema.items.as_deref().map(reference).unwrap_or_default())
        }
        schema => format!("{}Response", reference(&schema)),
    }
}

/// 200 with data and nothing else to say.
#[derive(ApiResponse)]
pub(crate) enum Answer<T: Type> {
    /// Success
    #[oai(status = 200)]
    Ok(Envelope<T>),
}

/// 201 with what was made.
#[derive(ApiResponse)]
pub(crate) enum Created<T: Type> {
    /// Created
    #[oai(status = 201)]
    Created(
        Envelope<T>,
        /// The version that was made.
        #[oai(header = "ETag")]
        String,
        /// Where it is to be found.
        #[oai(header = "Location")]
        String,
    ),
}

impl<T: Type, M> Keep<M> for Created<T> {
    fn keep(&self, _: &M) -> Kept {
        let Self::Created(envelope, etag, location) = self;
        Kept::answer(201, Some(etag), Some(location), envelope.body())
    }
}

/// Nothing that could be said without saying who there is.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Accepted {}

/// 202: what was asked for is done later, or there is nothing to do; the answer is the same.
#[derive(ApiResponse)]
pub(crate) enum Later {
    /// Accepted
    #[oai(status = 202)]
    Accepted(Envelope<Accepted>),
}

impl Later {
    pub(crate) fn accepted() -> Self {
        Self::Accepted(Envelope::of(&Accepted {}))
    }
}

/// 204.
#[derive(ApiResponse)]
pub(crate) enum Deleted {
    /// Deleted
    #[oai(status = 204)]
    Deleted,
}

/// The `ETag` of a version.
pub(crate) fn etag(version: i64) -> String {
    let mut tag = String::with_capacity(8);
    tag.push_str(if version < 0 { "\"-" } else { "\"" });
    whole(&mut tag, version.unsigned_abs());
    tag.push('"');
    tag
}

/// What a conditional request asks for (RFC 9110, 13.1): any version that exists, or one of these. `W/` and a suffix
/// that names a content coding do not matter; a tag that is none of ours is no version, and never matches.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(crate) enum Condition {
    Any,
    Versions(Vec<i64>),
}

impl Condition {
    pub(crate) fn parse(header: &str) -> Self {
        if header.trim() == "*" {
            return Self::Any;
        }
        Self::Versions(header.split(',').filter_map(version_of).collect())
    }

    pub(crate) fn holds(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

fn version_of(tag: &str) -> Option<i64> {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')?;
    let (digits, coding) = tag.split_once('-').unwrap_or((tag, "none"));
    let ours = !coding.is_empty() && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_version_in_quotes() {
        for version in [i64::MIN, -1, 0, 1, 1_207, i64::MAX] {
            assert_eq!(etag(version), format!("\"{version}\""));
        }
    }

    #[test]
    fn a_weak_or_suffixed_etag_names_the_same_version() {
        for tag in ["\"7\"", "W/\"7\"", "\"7-gzip\"", " \"7\" ", "\"6\", \"7\"", "\"abc\",W/\"7-br\""] {
            assert!(Condition::parse(tag).holds(7), "{tag}");
        }
        assert_eq!(Condition::parse("*"), Condition::Any);
        for tag in ["7", "\"x\"", "\"-7\"", "\"+7\"", "\"7-\"", "", "\"6\""] {
            assert!(!Condition::parse(tag).holds(7), "{tag}");
        }
    }
}
