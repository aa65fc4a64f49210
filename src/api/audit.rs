//! `/audit-events`.

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::Query,
    registry::{MetaSchema, MetaSchemaRef},
    types::Any,
};
use serde::Serialize;
use serde_json::Value as Json;
use tenantry_accounts::{
    TenantId,
    audit::{self, ActorKind, Event, Filter},
};
use uuid::Uuid;

use super::{
    Tag,
    envelope::{Cursor, Envelope},
    params::{IdCursor, Limit, Param, Value},
};
use crate::{caller::Caller, error::ApiError, state::State};

pub(crate) struct Audit;

/// Something that somebody did. It is written when it is done, or it is not done, and never changes.
#[derive(Debug, Serialize, Object)]
struct AuditEvent {
    /// Names the event; sorts by age.
    id: Uuid,
    /// The tenant it was done in.
    tenant_id: TenantId,
    /// When.
    at: DateTime<Utc>,
    /// What kind of actor did it.
    actor_kind: ActorKind,
    /// The user or the API key; null for others.
    #[oai(nullable)]
    actor_id: Option<Uuid>,
    /// The network it came from, the first 24 bits of an IPv4 address or 48 of an IPv6 one; null where that is not known.
    #[oai(nullable)]
    address: Option<String>,
    /// What was done, such as `user.updated`. More may be added.
    action: String,
    /// What it was done to: a user, a tenant, a session, an invitation, a job.
    subject_id: Uuid,
    /// What changed: names of fields, ids, roles; never a secret, never an address.
    detail: Any<Json>,
}

impl From<Event> for AuditEvent {
    fn from(event: Event) -> Self {
        let Event { id, tenant, at, actor_kind, actor_id, address, action, subject_id, detail } = event;
        let (tenant_id, detail) = (tenant, Any(detail));
        Self { id, tenant_id, at, actor_kind, actor_id, address, action, subject_id, detail }
    }
}

/// The name of an action, be it one that another version knows.
struct Action(String);

impl Value for Action {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let letters = |c: u8| c.is_ascii_lowercase() || c == b'_' || c == b'.';
        match (1..=63).contains(&text.len()) && text.bytes().all(letters) {
            true => Ok(Self(text.into())),
            false => Err(("not_allowed", "Must be an action, such as user.updated")),
        }
    }

    fn schema() -> MetaSchemaRef {
        let bounds = MetaSchema {
            min_length: Some(1),
            max_length: Some(63),
            pattern: Some("^[a-z_.]+$".into()),
            ..MetaSchema::new("string")
        };
        MetaSchemaRef::Inline(Box::new(bounds))
    }
}

#[derive(ApiResponse)]
enum AuditPage {
    /// A part of the list.
    #[oai(status = 200)]
    Page(Envelope<Vec<AuditEvent>, Cursor>),
}

#[OpenApi(prefix_path = "/audit-events", tag = "Tag::Audit")]
impl Audit {
    /// List audit events
    ///
    /// Who did what, and from where, the newest first. Kept for 400 days at least (`AUDIT_RETENTION`). For administrators.
    /// That a super administrator looks into a tenant is an event, too.
    #[oai(path = "/", method = "get", operation_id = "listAuditEvents")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Events of this action only.
        action: Query<Param<Action>>,
        /// What this user or API key did only.
        actor_id: Query<Param<Uuid>>,
        /// What was done to this only.
        subject_id: Query<Param<Uuid>>,
        /// Not before this time.
        since: Query<Param<DateTime<Utc>>>,
        /// Before this time.
        until: Query<Param<DateTime<Utc>>>,
        /// Events of this tenant, be it closed or purged; for super administrators.
        tenant_id: Query<Param<Uuid>>,
        /// How many a part holds.
        limit: Query<Param<Limit>>,
        /// Where the part begins: `next_cursor` of the one before.
        cursor: Query<Param<IdCursor>>,
    ) -> Result<AuditPage, ApiError> {
        let mut errors = vec![];
        let filter = Filter {
            action: action.0.take("action", &mut errors).map(|Action(action)| action),
            actor: actor_id.0.take("actor_id", &mut errors),
            subject: subject_id.0.take("subject_id", &mut errors),
            since: since.0.take("since", &mut errors),
            until: until.0.take("until", &mut errors),
            before: cursor.0.take("cursor", &mut errors).map(|cursor| cursor.0),
        };
        let tenant = tenant_id.0.take("tenant_id", &mut errors).map(TenantId);
        let limit = limit.0.take("limit", &mut errors).map_or(10, |limit| limit.0);
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let found = audit::list(&state.app, *caller, tenant, &filter, limit + 1).await?;
        let (found, cursor) = Cursor::cut(found, limit, |last| last.id);
        let found: Vec<_> = found.into_iter().map(AuditEvent::from).collect();
        Ok(AuditPage::Page(Envelope::page(&found, &cursor)))
    }
}
