//! `/tenants`.

use poem::web::Data;
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Header, Path},
};
use serde::Serialize;
use tenantry_accounts::{
    TenantId,
    fields::{Email, Name, NewPassword, Slug},
    tenants::{self, Plan, Tenant},
    users::User,
};

use super::{
    Tag,
    body::{Body, body},
    envelope::{Condition, Created, Envelope, etag},
    params::Param,
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
        /// A new plan, with its seats. For super administrators.
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

/// Makes tenant, first administrator and verification mail; `POST /tenants` and `POST /auth/register` are one thing.
pub(super) async fn sign_up(
    state: &State,
    client: &Client,
    body: SignUp,
) -> Result<Created<SignedUp>, ApiError> {
    let SignUp { tenant: NewTenant { name, slug }, email, password, name: admin_name } = body;
    let sign_up = tenants::SignUp { name, slug, email, admin_name, password };
    let (tenant, user) = tenants::sign_up(&state.app, sign_up, Plan::Basic, client.network()).await?;
    let (version, location) = (etag(tenant.version), format!("/api/v1/tenants/{}", tenant.id));
    Ok(Created::Created(Envelope::of(&SignedUp { tenant, user }), version, location))
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
        body: Body<SignUp>,
    ) -> Result<Created<SignedUp>, ApiError> {
        sign_up(&state, &client, body.0).await
    }

    /// Get a tenant
    ///
    /// Your own, or any as a super administrator.
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
        if_match: Header<Param<Condition>>,
        body: Body<UpdateTenant>,
    ) -> Result<TenantFound, ApiError> {
        let UpdateTenant { name, plan, is_active, require_second_factor } = body.0;
        let change = tenants::Change { name, plan, is_active, require_second_factor };
        let tenant = tenants::update(&state.app, *caller, id.0, change, if_match.0.if_match()).await?;
        Ok(TenantFound::Found(Envelope::of(&tenant), etag(tenant.version)))
    }
}
