//! `/tenants`.

use poem::web::Data;
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
};
use serde::Serialize;
use tenantry_accounts::{
    TenantId,
    fields::{Email, Name, NewPassword, Slug},
    idempotency::Namer,
    tenants::{self, Filter, Plan, Tenant},
    users::User,
};

use super::{
    Tag,
    body::{Body, body},
    envelope::{Created, Cursor, Deleted, Envelope, etag},
    idempotency::{IdempotencyKey, Repeatable},
    params::{IdCursor, Limit, Param, Search},
    precondition::Precondition,
};
use crate::{caller::Caller, error::ApiError, layers::Client, state::State};

pub(crate) struct Tenants;

body! {
    /// A tenant to be made.
    pub(crate) struct NewTenant {
        /// The tenant's name.
        name: Name,
        /// The tenant's name in URLs and at sign-in: lower-case letters, digits and inner hyphens. Never changes.
        slug: Slug,
    }
}

body! {
    /// A tenant and its first administrator.
    pub(crate) struct SignUp {
        /// The tenant.
        tenant: NewTenant,
        /// The administrator's address. The verification mail goes there.
        email: Email,
        /// The administrator's password.
        password: NewPassword,
        /// The administrator's full name.
        name: Name,
    }
}

body! {
    /// What shall be different. What is left out stays.
    pub(crate) struct UpdateTenant {
        /// A new name.
        name: Option<Name>,
        /// A new plan, with its seats. When more are used than it has, nobody loses theirs, and none is given until there is
        /// one. For super administrators.
        plan: Option<Plan>,
        /// Suspends the tenant or brings it back. For super administrators.
        is_active: Option<bool>,
        /// Whether users must have a second factor. Users without may only set one up from then on, in the sessions they
        /// have, too. To require one you need one yourself. Not with an API key.
        require_second_factor: Option<bool>,
    }
}

/// A tenant and its first administrator, both new.
#[derive(Debug, Serialize, Object)]
pub(crate) struct SignedUp {
    tenant: Tenant,
    user: User,
}

#[derive(ApiResponse)]
enum TenantFound {
    /// The tenant.
    #[oai(status = 200)]
    Found(
        Envelope<Tenant>,
        /// The tenant's version.
        #[oai(header = "ETag")]
        String,
    ),
}

#[derive(ApiResponse)]
enum TenantPage {
    /// A part of the list.
    #[oai(status = 200)]
    Page(Envelope<Vec<Tenant>, Cursor>),
}

/// Makes tenant, first administrator and verification mail; `POST /tenants` and `POST /auth/register` are one thing.
pub(super) async fn sign_up(
    state: &State,
    client: &Client,
    key: IdempotencyKey,
    body: SignUp,
) -> Result<Repeatable<Created<SignedUp>>, ApiError> {
    let attempt = state.limits.attempts.count_sign_up(client.address).await?;
    let SignUp { tenant: NewTenant { name, slug }, email, password, name: admin_name } = body;
    let sign_up = tenants::SignUp { name, slug, email, admin_name, password: Some(password) };
    let result = key
        .once(state, Namer::Anybody, signed_up, |once| {
            tenants::sign_up(&state.app, sign_up, Plan::Basic, client.network(), once)
        })
        .await;
    if let Some(attempt) = attempt {
        attempt.end_sign_up(result.as_ref().is_ok_and(Repeatable::is_first)).await;
    }
    result
}

fn signed_up((tenant, user): &(Tenant, User)) -> Created<SignedUp> {
    let (version, location) = (etag(tenant.version), format!("/api/v1/tenants/{}", tenant.id));
    let made = SignedUp { tenant: tenant.clone(), user: user.clone() };
    Created::Created(Envelope::of(&made), version, location)
}

#[OpenApi(prefix_path = "/tenants", tag = "Tag::Tenants")]
impl Tenants {
    /// Sign up
    ///
    /// Makes a tenant and its first administrator, as `POST /auth/register` does. The verification mail is sent when
    /// this succeeds, and only then.
    #[oai(path = "/", method = "post", operation_id = "createTenant")]
    async fn create(
        &self,
        state: Data<&State>,
        client: Data<&Client>,
        /// Names this request: sent again within a day it is answered as before, and nothing happens twice. It has to be as hard
        /// to guess as a UUID of chance.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<SignUp>,
    ) -> Result<Repeatable<Created<SignedUp>>, ApiError> {
        sign_up(&state, &client, key, body.0).await
    }

    /// List tenants
    ///
    /// The newest first. For super administrators.
    #[oai(path = "/", method = "get", operation_id = "listTenants")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Tenants with this plan only.
        plan: Query<Param<Plan>>,
        /// Tenants that are active only, or suspended.
        is_active: Query<Param<bool>>,
        /// Part of the name or the slug, in any case.
        search: Query<Param<Search>>,
        /// Those that are closed instead of those that are open.
        closed: Query<Param<bool>>,
        /// How many a part holds.
        limit: Query<Param<Limit>>,
        /// Where the part begins: `next_cursor` of the one before.
        cursor: Query<Param<IdCursor>>,
    ) -> Result<TenantPage, ApiError> {
        let mut errors = vec![];
        let limit = limit.0.take("limit", &mut errors).map_or(10, |limit| limit.0);
        let filter = Filter {
            plan: plan.0.take("plan", &mut errors),
            is_active: is_active.0.take("is_active", &mut errors),
            search: search.0.take("search", &mut errors).map(|search| search.0),
            closed: closed.0.take("closed", &mut errors).unwrap_or(false),
            before: cursor.0.take("cursor", &mut errors).map(|cursor| TenantId(cursor.0)),
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let found = tenants::list(&state.app, *caller, &filter, limit + 1).await?;
        let (found, cursor) = Cursor::cut(found, limit, |last| last.id.0);
        Ok(TenantPage::Page(Envelope::page(&found, &cursor)))
    }

    /// Get a tenant
    ///
    /// Your own, or any, closed ones too, as a super administrator.
    #[oai(path = "/:id", method = "get", operation_id = "getTenant")]
    async fn get(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The tenant's id.
        id: Path<TenantId>,
    ) -> Result<TenantFound, ApiError> {
        let tenant = tenants::get(&state.app, *caller, id.0).await?;
        Ok(TenantFound::Found(Envelope::of(&tenant), etag(tenant.version)))
    }

    /// Change a tenant
    ///
    /// For administrators.
    #[oai(path = "/:id", method = "patch", operation_id = "updateTenant")]
    async fn update(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The tenant's id.
        id: Path<TenantId>,
        /// Refuse with 412 unless this is the current version.
        #[oai(name = "If-Match")]
        if_match: Precondition,
        body: Body<UpdateTenant>,
    ) -> Result<TenantFound, ApiError> {
        let UpdateTenant { name, plan, is_active, require_second_factor } = body.0;
        let change = tenants::Change { name, plan, is_active, require_second_factor };
        let tenant = tenants::update(&state.app, *caller, id.0, change, if_match.versions()).await?;
        Ok(TenantFound::Found(Envelope::of(&tenant), etag(tenant.version)))
    }

    /// Close a tenant
    ///
    /// At once nobody signs in any more, and every token is void. Within 30 days (`TENANT_GRACE`) super administrators may
    /// open it again; after that all that is its own is removed, but for its audit trail. For administrators of the tenant,
    /// signed in.
    #[oai(path = "/:id", method = "delete", operation_id = "closeTenant")]
    async fn close(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The tenant's id.
        id: Path<TenantId>,
        /// The current version; 428 without one, 412 with another one.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Deleted, ApiError> {
        let version = if_match.versions().ok_or_else(ApiError::unconditional)?;
        tenants::close(&state.app, *caller, id.0, Some(version)).await?;
        Ok(Deleted::Deleted)
    }

    /// Open a closed tenant again
    ///
    /// As it was. Tokens that were void stay void. For super administrators.
    #[oai(path = "/:id/reopen", method = "post", operation_id = "reopenTenant")]
    async fn reopen(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The tenant's id.
        id: Path<TenantId>,
    ) -> Result<TenantFound, ApiError> {
        let tenant = tenants::reopen(&state.app, *caller, id.0).await?;
        Ok(TenantFound::Found(Envelope::of(&tenant), etag(tenant.version)))
    }
}
