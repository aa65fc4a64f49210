//! The one list of where people are: every table of the database has a line here or in [`OTHERS`], which a test compares with the
//! catalogue. What is told of a person, what is erased of them and what is kept follow from it.

/// A table with rows about people.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Which of its rows `t` are about the person `p`, who has an `id` and `addresses`.
    pub(crate) whose: &'static str,
    /// The columns that a person is told: all but secrets and hashes. None: what is told of another table is in it once more.
    pub(crate) told: Option<&'static str>,
    /// What becomes of the rows when the person is erased.
    pub erased: Erased,
}

/// What becomes of rows when a person is erased.
#[derive(Debug, Clone, Copy)]
pub enum Erased {
    /// They are removed, in the transaction of the erasure.
    Removed,
    /// What tells of the person is overwritten, by this and in that transaction.
    Overwritten(&'static str),
    /// It is seen to by code of its own; in words.
    Otherwise(&'static str),
    /// They stay, since they hold no more than ids; why.
    Kept(&'static str),
}

impl Erased {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Overwritten(_) => "address overwritten",
            Self::Otherwise(how) => how,
            Self::Kept(why) => why,
        }
    }
}

const fn table(name: &'static str, whose: &'static str, told: &'static str, erased: Erased) -> Table {
    Table { name, whose, told: Some(told), erased }
}

const OF_USER: &str = "t.user_id = p.id";
const OF_JOBS: &str = "t.tenant_id = $1 and t.payload ? 'user_id' and t.payload ->> 'user_id' = p.id::text";

/// Tables with rows about people, those first that others refer to last.
pub const TABLES: &[Table] = &[
    table(
        "users",
        "t.id = p.id",
        "t.id, t.email, t.pending_email, t.name, t.role, t.is_active, t.email_verified, t.last_login_at, t.created_at, \
         t.updated_at, t.deleted_at, t.version",
        Erased::Otherwise("address and name overwritten; removed 30 days after the deletion"),
    ),
    table("credentials", OF_USER, "t.updated_at", Erased::Removed),
    table(
        "refresh_tokens",
        "t.session_id in (select s.id from tenantry.sessions s where s.tenant_id = $1 and s.user_id = p.id)",
        "t.session_id, t.created_at, t.used_at, t.expires_at",
        Erased::Removed,
    ),
    table(
        "sessions",
        OF_USER,
        "t.id, t.user_agent, host(t.address) as address, t.amr, t.created_at, t.renewed_at, t.expires_at, t.revoked_at",
        Erased::Removed,
    ),
    table("user_logins", OF_USER, "t.id, t.at", Erased::Removed),
    table("recovery_codes", OF_USER, "t.used_at", Erased::Removed),
    table("second_factors", OF_USER, "t.created_at, t.confirmed_at, t.locked_until", Erased::Removed),
    table(
        "email_tokens",
        OF_USER,
        "t.purpose, t.email, t.created_at, t.expires_at, t.used_at",
        Erased::Removed,
    ),
    table("address_notices", OF_USER, "t.id, t.email, t.created_at", Erased::Removed),
    table("user_projects", OF_USER, "t.project_id, t.created_at", Erased::Removed),
    // What is private of it is for administrators, who are told it elsewhere.
    table("user_metadata", OF_USER, "t.public, t.version, t.updated_at", Erased::Removed),
    Table {
        name: "user_metadata_keys",
        whose: OF_USER,
        told: None,
        erased: Erased::Otherwise("removed with the metadata"),
    },
    table(
        "user_imports",
        "t.actor_id = p.id",
        "t.id, t.state, t.created_at, t.actor_address::text as network",
        Erased::Otherwise("the network of who began it is removed"),
    ),
    Table {
        name: "user_import_rows",
        whose: "(t.user_id = p.id or t.email = any (p.addresses))",
        told: None,
        erased: Erased::Otherwise(
            "address and name removed; the rest of an import goes seven days after its end",
        ),
    },
    table(
        "invitations",
        "t.email = any (p.addresses)",
        "t.id, t.email, t.role, t.created_at, t.expires_at, t.accepted_at, t.ended_at",
        Erased::Overwritten(
            "email = 'erased-' || t.id || '@erased.invalid', hash = null,
             ended_at = case when t.accepted_at is null then coalesce(t.ended_at, now()) else t.ended_at end",
        ),
    ),
    table(
        "jobs",
        OF_JOBS,
        "t.id, t.kind, t.state, t.created_at, t.finished_at",
        Erased::Otherwise("removed as soon as none of them runs; addresses in other jobs are overwritten"),
    ),
    table(
        "sent_mails",
        "t.job_id in (select t.id from tenantry.jobs t where t.tenant_id = $1 and t.payload ? 'user_id'
           and t.payload ->> 'user_id' = p.id::text)",
        "t.job_id, t.sent_at",
        Erased::Otherwise("removed with its job"),
    ),
    table(
        "audit_events",
        "(t.actor_id = p.id or t.subject_id = p.id)",
        "t.id, t.at, t.actor_kind, t.actor_id, case when t.actor_id = p.id then t.address::text end as network, t.action, t.subject_id, t.detail",
        Erased::Otherwise(
            "kept without networks, which are overwritten: the trail shows who did what, by ids, until it is too old",
        ),
    ),
    table(
        "api_keys",
        "t.created_by = p.id",
        "t.id, t.name, t.created_at, t.expires_at, t.revoked_at",
        Erased::Kept("kept: the key is the tenant's, and names who made it by an id"),
    ),
    table(
        "revocations",
        "t.subject_id = p.id",
        "t.subject, t.subject_id, t.created_at",
        Erased::Kept("kept for as long as tokens of before would be valid: ids alone"),
    ),
    Table {
        name: "user_search",
        whose: OF_USER,
        told: None,
        erased: Erased::Otherwise("follows address and name by itself"),
    },
    Table {
        name: "idempotency_keys",
        whose: "false",
        told: None,
        erased: Erased::Otherwise("address and name overwritten in answers of the last day"),
    },
    Table {
        name: "erasures",
        whose: OF_USER,
        told: None,
        erased: Erased::Kept(
            "kept: the id and when it was erased, so that it is erased again in what a backup brings back",
        ),
    },
];

/// The other tables, and why no person is in them.
pub const OTHERS: &[(&str, &str)] = &[
    ("tenants", "an organisation"),
    ("tenant_seats", "numbers"),
    ("user_stats", "numbers"),
    ("tenant_metadata", "an organisation's"),
    ("entitlements", "what the organisation may have"),
    (
        "billing_customers",
        "who pays is an organisation; Stripe has its contact, which docs/privacy.md tells of",
    ),
    ("billing_past_customers", "likewise"),
    ("subscriptions", "what an organisation pays for: kept as accounts are"),
    ("subscription_items", "likewise"),
    ("stripe_customers", "ids of Stripe's"),
    ("stripe_events", "ids of Stripe's"),
    ("stripe_objects", "ids of Stripe's"),
    ("stripe_cursors", "how far walks are"),
    ("job_kinds", "the service's own"),
    ("schedules", "the service's own"),
    ("facts", "the service's own"),
    ("crash_marks", "the service's own"),
    ("refinery_schema_history", "the service's own"),
];
