//! `/invitations`.

use poem::web::Data;
use poem_openapi::{ApiResponse, Object, OpenApi, param::Path};
use serde::Serialize;
use tenantry_accounts::{
    InvitationId,
    fields::{Name, NewPassword, Secret},
    idempotency::Namer,
    invitations::{self, Invitation},
    users::{Role, User},
};

use super::{
    Tag,
    body::{Body, Emails, body},
    envelope::{Answer, Created, Deleted, Envelope},
    idempotency::{IdempotencyKey, Keep, Kept, Repeatable},
    precondition::Precondition,
    users::created,
};
use crate::{caller::Caller, error::ApiError, layers::Client, state::State};

pub(crate) struct Invitations;

body! {
    /// People to be invited.
    pub(crate) struct Invite {
        /// Their addresses.
        emails: Emails,
        /// At most your own role; `user` when left out.
        role: Option<Role>,
    }
}

body! {
    /// What somebody who was invited chooses.
    pub(crate) struct AcceptInvitation {
        /// What the link in the mail carries.
        token: Secret,
        /// Their full name.
        name: Name,
        /// Their password.
        password: NewPassword,
    }
}

/// Invitations that are open.
#[derive(Serialize, Object)]
pub(crate) struct InvitationList {
    /// The newest first; at most 1,000.
    invitations: Vec<Invitation>,
}

#[derive(ApiResponse)]
enum Invited {
    /// Invited; the mails are on their way.
    #[oai(status = 201)]
    Invited(Envelope<InvitationList>),
}

impl Keep<Vec<Invitation>> for Invited {
    fn keep(&self, _: &Vec<Invitation>) -> Kept {
        let Self::Invited(envelope) = self;
        Kept::answer(201, None, None, envelope.body())
    }
}

#[OpenApi(prefix_path = "/invitations", tag = "Tag::Invitations")]
impl Invitations {
    /// Invite people
    ///
    /// All of them or none. Each keeps a seat for as long as the invitation is open, which is seven days. For
    /// administrators.
    #[oai(path = "/", method = "post", operation_id = "createInvitations")]
    async fn create(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Names this request: sent again within a day it is answered as before, and nothing happens twice.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<Invite>,
    ) -> Result<Repeatable<Invited>, ApiError> {
        let Invite { emails: Emails(emails), role } = body.0;
        let invited = |invitations: &Vec<Invitation>| {
            Invited::Invited(Envelope::of(&InvitationList { invitations: invitations.clone() }))
        };
        key.once(&state, Namer::Actor(*caller), invited, |once| {
            invitations::create(&state.app, *caller, emails, role.unwrap_or(Role::User), once)
        })
        .await
    }

    /// List open invitations
    ///
    /// For administrators.
    #[oai(path = "/", method = "get", operation_id = "listInvitations")]
    async fn list(&self, state: Data<&State>, caller: Caller) -> Result<Answer<InvitationList>, ApiError> {
        let invitations = invitations::list(&state.app, *caller).await?;
        Ok(Answer::Ok(Envelope::of(&InvitationList { invitations })))
    }

    /// Accept an invitation
    ///
    /// Takes the token of the mail and makes the user, whose address is thereby verified.
    #[oai(path = "/accept", method = "post", operation_id = "acceptInvitation")]
    async fn accept(
        &self,
        state: Data<&State>,
        client: Data<&Client>,
        /// Names this request: sent again within a day it is answered as before, though the token was used.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<AcceptInvitation>,
    ) -> Result<Repeatable<Created<User>>, ApiError> {
        let AcceptInvitation { token, name, password } = body.0;
        key.once(&state, Namer::Holder(&token.clone()), created, |once| {
            invitations::accept(&state.app, token, name, password, client.network(), once)
        })
        .await
    }

    /// Send an invitation again
    ///
    /// The link that was mailed before stops working. For administrators.
    #[oai(path = "/:id/resend", method = "post", operation_id = "resendInvitation")]
    async fn resend(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The invitation's id.
        id: Path<InvitationId>,
    ) -> Result<Answer<Invitation>, ApiError> {
        Ok(Answer::Ok(Envelope::of(&invitations::resend(&state.app, *caller, id.0).await?)))
    }

    /// Withdraw an invitation
    ///
    /// Its seat is free again. For administrators.
    #[oai(path = "/:id", method = "delete", operation_id = "deleteInvitation")]
    async fn withdraw(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The invitation's id.
        id: Path<InvitationId>,
        /// It has no versions: 412 unless this is `*`.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Deleted, ApiError> {
        if_match.of_no_version()?;
        invitations::withdraw(&state.app, *caller, id.0).await?;
        Ok(Deleted::Deleted)
    }
}
