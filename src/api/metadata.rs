//! `/users/{id}/metadata`, `/tenants/{id}/metadata` and `/users/by-metadata`.

use std::collections::HashMap;

use poem::web::Data;
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    registry::{MetaSchema, MetaSchemaRef},
};
use serde_json::Value as Json;
use tenantry_accounts::{
    TenantId, UserId,
    metadata::{self, Metadata, Owner, Scope},
    users::User,
};

use super::{
    Tag,
    envelope::{Cursor, Envelope, etag},
    merge_patch::MetadataPatch,
    params::{IdCursor, Limit, Param, Value, closed},
    precondition::Precondition,
};
use crate::{caller::Caller, error::ApiError, state::State};

pub(crate) struct MetadataApi;

// Written by hand around the documents as they are stored.
/// What others keep with a user or a tenant.
#[derive(Object)]
#[oai(rename = "Metadata")]
struct Shown {
    /// For everybody who may see whose it is.
    public: HashMap<String, Json>,
    /// For administrators and API keys; left out for others.
    private: Option<HashMap<String, Json>>,
    /// When it was last changed; null: never.
    #[oai(nullable)]
    updated_at: Option<chrono::DateTime<chrono::Utc>>,
    /// Goes up with each change, of which there may have been none; the `ETag`.
    version: i64,
}

#[derive(ApiResponse)]
enum MetadataFound {
    /// The metadata.
    #[oai(status = 200)]
    Found(
        Envelope<Shown>,
        /// Its version.
        #[oai(header = "ETag")]
        String,
    ),
}

#[derive(ApiResponse)]
enum UsersFound {
    /// A part of the list.
    #[oai(status = 200)]
    Page(Envelope<Vec<User>, Cursor>),
}

/// Which part of the metadata.
#[derive(Clone, Copy, Enum)]
#[oai(rename_all = "snake_case", rename = "MetadataScope")]
enum Part {
    /// What everybody may see.
    Public,
    /// What administrators and API keys may see.
    Private,
}

closed!(Part: ["public" => Part::Public, "private" => Part::Private] "Must be public or private");

/// A key at the top of the metadata.
struct Key(String);

impl Value for Key {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        match (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
            true => Ok(Self(text.into())),
            false => Err(("invalid_key", "Must be 1 to 64 characters long, and no control characters")),
        }
    }

    fn schema() -> MetaSchemaRef {
        text(1, 64)
    }
}

/// What stands at a key.
struct Held(String);

impl Value for Held {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        match text.len() {
            0..=255 if text.contains('\0') => Err(("invalid_characters", "Must not contain NUL characters")),
            0..=255 => Ok(Self(text.into())),
            _ => Err(("too_long", "Must be at most 255 bytes long: longer values are not looked up")),
        }
    }

    fn schema() -> MetaSchemaRef {
        text(0, 255)
    }
}

fn text(min: usize, max: usize) -> MetaSchemaRef {
    let schema = MetaSchema { min_length: Some(min), max_length: Some(max), ..MetaSchema::new("string") };
    MetaSchemaRef::Inline(Box::new(schema))
}

#[OpenApi]
impl MetadataApi {
    /// Find users by their metadata
    ///
    /// Users who have `value` at `key`, at the top of the metadata, the oldest first: a text of up to 255 bytes as it is, a
    /// number or `true` or `false` as it is written. By private metadata administrators and API keys find.
    #[oai(
        path = "/users/by-metadata",
        method = "get",
        operation_id = "findUsersByMetadata",
        tag = "Tag::Users"
    )]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn find(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Where to look; `public` when left out.
        scope: Query<Param<Part>>,
        /// The key.
        key: Query<Param<Key>>,
        /// What has to stand there.
        value: Query<Param<Held>>,
        /// How many a part holds.
        limit: Query<Param<Limit>>,
        /// Where the part begins: `next_cursor` of the one before.
        cursor: Query<Param<IdCursor>>,
    ) -> Result<UsersFound, ApiError> {
        let mut errors = vec![];
        let scope = match scope.0.take("scope", &mut errors) {
            Some(Part::Private) => Scope::Private,
            Some(Part::Public) | None => Scope::Public,
        };
        let (key, value) = (key.0.required("key", &mut errors), value.0.required("value", &mut errors));
        let limit = limit.0.take("limit", &mut errors).map_or(10, |limit| limit.0);
        let cursor = cursor.0.take("cursor", &mut errors).map(|cursor| UserId(cursor.0));
        let (Some(Key(key)), Some(Held(value)), true) = (key, value, errors.is_empty()) else {
            return Err(ApiError::invalid(errors));
        };
        let found = metadata::find(&state.app, *caller, scope, (&key, &value), cursor, limit + 1).await?;
        let (found, cursor) = Cursor::cut(found, limit, |last| last.id.to_string());
        Ok(UsersFound::Page(Envelope::page(&found, &cursor)))
    }

    /// Get a user's metadata
    ///
    /// `private` is told to administrators and API keys.
    #[oai(path = "/users/:id/metadata", method = "get", operation_id = "getUserMetadata", tag = "Tag::Users")]
    async fn get_users(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
    ) -> Result<MetadataFound, ApiError> {
        Ok(shown(&metadata::get(&state.app, *caller, Owner::User(id.0)).await?))
    }

    /// Change a user's metadata
    ///
    /// By a merge patch (RFC 7396) of `{"public": {...}, "private": {...}}`: what is null is removed, objects are merged,
    /// everything else is replaced. Each part may have 16 KiB and 128 keys at its top, of 64 characters each. No place for
    /// secrets. For administrators.
    #[oai(
        path = "/users/:id/metadata",
        method = "patch",
        operation_id = "updateUserMetadata",
        tag = "Tag::Users"
    )]
    async fn patch_users(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// Refuse with 412 unless this is the current version of the metadata; `"0"`: there is none yet.
        #[oai(name = "If-Match")]
        if_match: Precondition,
        body: MetadataPatch,
    ) -> Result<MetadataFound, ApiError> {
        change(&state, &caller, Owner::User(id.0), body, if_match).await
    }

    /// Get a tenant's metadata
    ///
    /// Your own tenant's, or any, as a super administrator. `private` is told to administrators and API keys.
    #[oai(
        path = "/tenants/:id/metadata",
        method = "get",
        operation_id = "getTenantMetadata",
        tag = "Tag::Tenants"
    )]
    async fn get_tenants(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The tenant's id.
        id: Path<TenantId>,
    ) -> Result<MetadataFound, ApiError> {
        Ok(shown(&metadata::get(&state.app, *caller, Owner::Tenant(id.0)).await?))
    }

    /// Change a tenant's metadata
    ///
    /// As that of a user. For administrators.
    #[oai(
        path = "/tenants/:id/metadata",
        method = "patch",
        operation_id = "updateTenantMetadata",
        tag = "Tag::Tenants"
    )]
    async fn patch_tenants(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The tenant's id.
        id: Path<TenantId>,
        /// Refuse with 412 unless this is the current version of the metadata; `"0"`: there is none yet.
        #[oai(name = "If-Match")]
        if_match: Precondition,
        body: MetadataPatch,
    ) -> Result<MetadataFound, ApiError> {
        change(&state, &caller, Owner::Tenant(id.0), body, if_match).await
    }
}

async fn change(
    state: &State,
    caller: &Caller,
    owner: Owner,
    MetadataPatch(patch): MetadataPatch,
    if_match: Precondition,
) -> Result<MetadataFound, ApiError> {
    Ok(shown(&metadata::patch(&state.app, **caller, owner, patch, if_match.versions()).await?))
}

fn shown(found: &Metadata) -> MetadataFound {
    MetadataFound::Found(Envelope::written(found), etag(found.version))
}
