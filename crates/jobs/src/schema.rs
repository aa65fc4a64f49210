//! The payloads as JSON Schema, for producers in other languages.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    AddressNoticeEmail, CreateCustomer, EndSubscriptions, EraseUser, ImportUsers, InvalidateUser,
    InvitationEmail, Job, Kind, PruneJobs, PurgeDeleted, PurgeTenants, ResetPasswordEmail, RollUpUsers,
    RotateAudit, SecondFactorNoticeEmail, StripeBackfill, StripeReconcile, SyncCustomer, SyncSeats,
    SyncSubscription, VerifyEmail,
};

/// The schema of a kind's payload.
pub fn payload(kind: Kind) -> Value {
    match kind {
        Kind::VerifyEmail => of::<VerifyEmail>(),
        Kind::ResetPasswordEmail => of::<ResetPasswordEmail>(),
        Kind::InvitationEmail => of::<InvitationEmail>(),
        Kind::AddressNoticeEmail => of::<AddressNoticeEmail>(),
        Kind::SecondFactorNoticeEmail => of::<SecondFactorNoticeEmail>(),
        Kind::InvalidateUser => of::<InvalidateUser>(),
        Kind::EraseUser => of::<EraseUser>(),
        Kind::SyncSubscription => of::<SyncSubscription>(),
        Kind::CreateCustomer => of::<CreateCustomer>(),
        Kind::SyncCustomer => of::<SyncCustomer>(),
        Kind::SyncSeats => of::<SyncSeats>(),
        Kind::EndSubscriptions => of::<EndSubscriptions>(),
        Kind::StripeReconcile => of::<StripeReconcile>(),
        Kind::StripeBackfill => of::<StripeBackfill>(),
        Kind::ImportUsers => of::<ImportUsers>(),
        Kind::PruneJobs => of::<PruneJobs>(),
        Kind::PurgeDeleted => of::<PurgeDeleted>(),
        Kind::PurgeTenants => of::<PurgeTenants>(),
        Kind::RotateAudit => of::<RotateAudit>(),
        Kind::RollUpUsers => of::<RollUpUsers>(),
    }
}

/// One document that describes every kind: what `enqueue_job(kind, payload, ...)` accepts.
pub fn document() -> Value {
    let payloads: Map<String, Value> =
        Kind::ALL.iter().map(|kind| (kind.to_string(), payload(*kind))).collect();
    let alternatives: Vec<Value> = Kind::ALL.iter().map(|kind| alternative(*kind)).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tenantry jobs",
        "description": "Arguments of tenantry.enqueue_job(kind => ..., payload => ..., tenant_id => ...)",
        "oneOf": alternatives,
        "$defs": payloads,
    })
}

fn alternative(kind: Kind) -> Value {
    json!({
        "type": "object",
        "required": ["kind", "payload"],
        "properties": {
            "kind": { "const": kind.as_str() },
            "payload": { "$ref": format!("#/$defs/{kind}") },
        },
    })
}

fn of<J: Job + JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    SchemaGenerator::new(settings).into_root_schema_for::<J>().to_value()
}
