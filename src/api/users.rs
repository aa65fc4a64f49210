//! `/users`.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Header, Path, Query},
    registry::{MetaSchema, MetaSchemaRef},
    types::ToHeader,
};
use tenantry_accounts::{
    TenantId, UserId,
    fields::{Email, Name, NewPassword},
    idempotency::Namer,
    users::{self, Order, Role, SortBy, User},
};
use tenantry_cache::Level;

use super::{
    Tag,
    body::{Body, Ids, body, wrong},
    envelope::{Answer, Condition, Created, Deleted, Envelope, etag},
    idempotency::{IdempotencyKey, Repeatable},
    look_up::{self, LookedUp},
    params::{Limit, ListCursor, MinVersion, PageNumber, Param, Search},
    precondition::Precondition,
    schema::shown,
    user_lists::{self, Include, UserPage},
};
use crate::{caller::Caller, error::ApiError, state::State};
use poem::web::Data;

pub(crate) struct Users;

body! {
    /// A user to be made.
    pub(crate) struct CreateUser {
        /// Unique within the tenant. The verification mail goes there.
        email: Email,
        /// The user's full name.
        name: Name,
        /// Without a password the user cannot sign in yet.
        password: Option<NewPassword>,
        /// At most your own role; `user` when left out.
        role: Option<Role>,
    }
}

body! {
    /// What shall be different. What is left out stays.
    pub(crate) struct UpdateUser {
        /// A new address counts when it is proven: until then it is `pending_email`. Those who read mail at the old one are
        /// told.
        email: Option<Email>,
        /// A new name.
        name: Option<Name>,
        /// For administrators; at most your own role.
        role: Option<Role>,
        /// For administrators. Inactive users cannot sign in, and their sessions end.
        is_active: Option<bool>,
    }
}

body! {
    /// Users to be looked up.
    pub(crate) struct BatchGet {
        /// Their ids.
        ids: Ids,
    }
}

/// The users that exist, and the ids of those that do not. Written by hand around the cached JSON of each user.
#[derive(Object)]
struct UserBatch {
    /// In the order of the ids.
    users: Vec<User>,
    /// Ids of nobody in the tenant.
    missing: Vec<UserId>,
}

/// Who answered a look-up.
struct XCache(Level);

impl ToHeader for XCache {
    fn to_header(&self) -> Option<poem::http::HeaderValue> {
        Some(poem::http::HeaderValue::from_static(look_up::name(self.0)))
    }
}

shown!(XCache, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    enum_items: ["local", "redis", "miss"].map(Into::into).to_vec(),
    ..MetaSchema::new("string")
})));

#[derive(ApiResponse)]
enum UserFound {
    /// The user.
    #[oai(status = 200)]
    Found(
        Envelope<User>,
        /// The user's version.
        #[oai(header = "ETag")]
        String,
        /// Who answered: this process, Redis, or (miss) the database.
        #[oai(header = "X-Cache")]
        XCache,
    ),
    /// The version in `If-None-Match` is still the current one.
    #[oai(status = 304)]
    NotModified(
        /// The user's version.
        #[oai(header = "ETag")]
        String,
        /// Who answered: this process, Redis, or (miss) the database.
        #[oai(header = "X-Cache")]
        XCache,
    ),
}

#[derive(ApiResponse)]
pub(super) enum UserChanged {
    /// The user as it is now.
    #[oai(status = 200)]
    Changed(
        Envelope<User>,
        /// The version that was made; send it as `X-Min-Version` to read your own write elsewhere.
        #[oai(header = "ETag")]
        String,
    ),
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl Users {
    /// Create a user
    ///
    /// For administrators. The verification mail is sent when this succeeds, and only then.
    #[oai(path = "/", method = "post", operation_id = "createUser")]
    async fn create(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Names this request: sent again within a day it is answered as before, and nothing happens twice.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<CreateUser>,
    ) -> Result<Repeatable<Created<User>>, ApiError> {
        let CreateUser { email, name, password, role } = body.0;
        let password = password.map(users::Password::Chosen);
        let user =
            users::NewUser { email, name, password, role: role.unwrap_or(Role::User), verified: false };
        key.once(&state, Namer::Actor(*caller), created, |once| {
            users::create(&state.app, *caller, user, once)
        })
        .await
    }

    /// List users
    ///
    /// Page by page, or part by part: `cursor=first` begins at the beginning, and `next_cursor` leads on for as long as it is not
    /// null. Parts cost the same however far one goes, and nobody is left out or comes twice because others are made, changed
    /// or deleted meanwhile; pages reach the first 10,000 users. Ties are ended by id. Deleted users are not listed; inactive
    /// ones when asked for.
    ///
    /// A search shows 1,000 users at most: first those whose name or address is just that, then those where it begins the
    /// address or a word of the name, then those who have it elsewhere; each of these in the order that is asked for.
    ///
    /// An answer may be a second old, but it never is without a change that was made by this node.
    #[oai(path = "/", method = "get", operation_id = "listUsers")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Which page, from 1; the first where neither this nor `cursor` is given. `page` times `limit` is 10,000 at most.
        page: Query<Param<PageNumber>>,
        /// Instead of a page: `first`, or `next_cursor` of the part before, in the same order and with the same filters.
        cursor: Query<Param<ListCursor>>,
        /// How many a page or a part holds.
        limit: Query<Param<Limit>>,
        /// Part of the name or the address, in any case; two characters, the beginning of the address or of a word of the name.
        search: Query<Param<Search>>,
        /// Users of this role only.
        role: Query<Param<Role>>,
        /// Active (the default) or inactive users.
        is_active: Query<Param<bool>>,
        /// Only users who have shown to receive mail at their address, or only those who have not.
        email_verified: Query<Param<bool>>,
        /// Users who were made at this time or later.
        created_after: Query<Param<DateTime<Utc>>>,
        /// Users who were made before this time.
        created_before: Query<Param<DateTime<Utc>>>,
        /// What to sort by; `created_at` when left out.
        sort_by: Query<Param<SortBy>>,
        /// Which end comes first; `desc` when left out.
        sort_order: Query<Param<Order>>,
        /// `stats`: with each user `recent_logins` (within 30 days) and `total_projects`, below `stats`; for administrators.
        include: Query<Param<Include>>,
        /// Any version: the answer is not a second old, wherever what you wrote was written.
        #[oai(name = "X-Min-Version")]
        min_version: Header<Param<MinVersion>>,
    ) -> Result<UserPage, ApiError> {
        let asked = user_lists::Asked {
            page: page.0,
            cursor: cursor.0,
            limit: limit.0,
            search: search.0,
            role: role.0,
            is_active: is_active.0,
            email_verified: email_verified.0,
            created_after: created_after.0,
            created_before: created_before.0,
            sort_by: sort_by.0,
            sort_order: sort_order.0,
            include: include.0,
            min_version: min_version.0,
        };
        user_lists::list(&state, *caller, asked).await
    }

    /// Get yourself
    ///
    /// The user that the access token is of; through the cache, as any look-up.
    #[oai(path = "/me", method = "get", operation_id = "getMe")]
    async fn me(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Answer 304 while this is the current version.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Param<Condition>>,
        /// The oldest version that will do: what you wrote is read on any node.
        #[oai(name = "X-Min-Version")]
        min_version: Header<Param<MinVersion>>,
    ) -> Result<UserFound, ApiError> {
        find(&state, caller.home, caller.user()?.id, if_none_match.0, min_version.0).await
    }

    /// Get a user by address
    ///
    /// As fresh as a look-up by id. The address may be written in any case.
    #[oai(path = "/lookup", method = "get", operation_id = "lookupUser")]
    async fn lookup(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's address.
        email: Query<Param<Email>>,
        /// Answer 304 while this is the current version.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Param<Condition>>,
    ) -> Result<UserFound, ApiError> {
        let mut errors = vec![];
        let email = email.0.take("email", &mut errors);
        let missing = || vec![wrong("email", "missing", "Say which address")];
        let email =
            email.ok_or_else(|| ApiError::invalid(if errors.is_empty() { missing() } else { errors }))?;
        let found = users::get_by_email(&state.app, caller.tenant, &email).await?;
        Ok(LookedUp::of(&found, if_none_match.0.condition()).into())
    }

    /// Get many users
    ///
    /// As fresh as one look-up each, in one round trip to each store. Ids that are nobody's are named.
    #[oai(path = "/batch-get", method = "post", operation_id = "batchGetUsers")]
    async fn batch_get(
        &self,
        state: Data<&State>,
        caller: Caller,
        body: Body<BatchGet>,
    ) -> Result<Answer<UserBatch>, ApiError> {
        let Ids(ids) = body.0.ids;
        let found = users::get_many(&state.app, caller.tenant, &ids).await?;
        let users: Vec<_> = found.iter().flatten().map(|user| &*user.entry.body).collect();
        let missing: Vec<_> =
            ids.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| *id).collect();
        Ok(Answer::Ok(Envelope::batch(&users, &missing)))
    }

    /// Get a user
    ///
    /// From the cache where it is fresh: at most a second behind a change made on another node, never behind one made
    /// on this node, and never older than `X-Min-Version`.
    #[oai(path = "/:id", method = "get", operation_id = "getUser")]
    async fn get(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// Answer 304 while this is the current version.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Param<Condition>>,
        /// The oldest version that will do: what you wrote is read on any node.
        #[oai(name = "X-Min-Version")]
        min_version: Header<Param<MinVersion>>,
    ) -> Result<UserFound, ApiError> {
        find(&state, caller.tenant, id.0, if_none_match.0, min_version.0).await
    }

    /// Change a user
    ///
    /// Your own name and address, or, as an administrator, anyone's record.
    #[oai(path = "/:id", method = "patch", operation_id = "updateUser")]
    async fn update(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// Refuse with 412 unless this is the current version.
        #[oai(name = "If-Match")]
        if_match: Precondition,
        body: Body<UpdateUser>,
    ) -> Result<UserChanged, ApiError> {
        let UpdateUser { email, name, role, is_active } = body.0;
        let change = users::Change { email, at_once: false, name, role, is_active };
        let user = users::update(&state.app, *caller, id.0, change, if_match.versions()).await?;
        Ok(UserChanged::Changed(Envelope::of(&user), etag(user.version)))
    }

    /// Delete a user
    ///
    /// For administrators. Address and seat are free again; sessions and credentials end.
    #[oai(path = "/:id", method = "delete", operation_id = "deleteUser")]
    async fn delete(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// Refuse with 412 unless this is the current version.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Deleted, ApiError> {
        users::delete(&state.app, *caller, id.0, if_match.versions()).await?;
        Ok(Deleted::Deleted)
    }
}

pub(super) fn created(user: &User) -> Created<User> {
    Created::Created(Envelope::of(user), etag(user.version), format!("/api/v1/users/{}", user.id))
}

async fn find(
    state: &State,
    tenant: TenantId,
    id: UserId,
    if_none_match: Param<Condition>,
    min_version: Param<MinVersion>,
) -> Result<UserFound, ApiError> {
    let min = min_version.header()?.map(|version| version.0);
    let asked = look_up::Asked { known: if_none_match.condition(), min };
    Ok(look_up::find(state, tenant, id, asked).await?.into())
}

impl From<LookedUp> for UserFound {
    fn from(found: LookedUp) -> Self {
        let (version, level) = (etag(found.version), XCache(found.level));
        match found.body {
            Some(body) => Self::Found(Envelope::whole(body), version, level),
            None => Self::NotModified(version, level),
        }
    }
}
