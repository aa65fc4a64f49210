//! Figures of all users of a tenant, rolled up: they are counted at most so often that counting takes a hundredth of the time,
//! and not at all while nothing has changed.
//!
//! What is cheap to count is counted by whoever asks; the rest by the job `roll_up_users`. That something has changed is told
//! by the audit trail, which has an event for each change and each sign-in, so these pay nothing for it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Days, NaiveDate, Utc};
use deadpool_postgres::Client;
use poem_openapi::Object;
use serde::{Deserialize, Serialize};
use tenantry_jobs::RollUpUsers;
use tenantry_queue::Options;
use tokio_postgres::{Row, error::SqlState, types::Json};

use super::{Role, logins::RECENT};
use crate::{
    App, Error, Result, TenantId,
    db::{self, Transaction},
    schema::{json_text, text_schema},
};

/// Tenants with no more users are counted by whoever asks, unless that took longer than [`SOON`] the last time.
const FEW: i32 = 10_000;
/// What a request may take longer for.
const SOON: Duration = Duration::from_millis(250);
/// After so long a request gives up counting: few users may have signed in very often.
const GIVE_UP: &str = "set local statement_timeout = '1s'";
/// How old figures may be before anybody asks whether they are right.
const LEAST: Duration = Duration::from_secs(10);
/// How many times as long as counting took nothing is counted again.
const REST: u32 = 100;
/// Figures of a tenant in which nothing happens are counted again after this time: sign-ins cease to be recent.
const MOST: Duration = Duration::from_secs(3600);
/// How many days of sign-ups are told, today included.
const DAYS: u64 = 90;

/// Figures of the users of a tenant, of one moment. Users who have been deleted are in none but `recent_logins`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Object)]
#[oai(rename = "UserStats")]
pub struct Stats {
    /// When they were counted.
    pub as_of: DateTime<Utc>,
    /// How many users there are.
    pub total_users: i64,
    /// How many of each role.
    pub by_role: ByRole,
    /// How many may sign in, and how many may not.
    pub by_state: ByState,
    /// How many have shown to receive mail at their address.
    pub by_verification: ByVerification,
    /// How often anybody has signed in within 30 days.
    pub recent_logins: i64,
    /// How many users were made on each of the last 90 days in UTC, today included, the oldest first.
    pub sign_ups: Vec<SignUps>,
}

/// Users by role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Object)]
#[oai(rename = "UsersByRole")]
pub struct ByRole {
    /// `user`.
    pub user: i64,
    /// `admin`.
    pub admin: i64,
    /// `super_admin`: in the tenant `system` only.
    pub super_admin: i64,
}

/// Users by whether they may sign in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Object)]
#[oai(rename = "UsersByState")]
pub struct ByState {
    /// They may.
    pub active: i64,
    /// They have been deactivated.
    pub inactive: i64,
}

/// Users by whether their address is known to be theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Object)]
#[oai(rename = "UsersByVerification")]
pub struct ByVerification {
    /// It is.
    pub verified: i64,
    /// Not yet.
    pub unverified: i64,
}

/// Users who were made on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Object)]
pub struct SignUps {
    /// The day, in UTC.
    pub day: Day,
    /// How many there are.
    pub users: i64,
}

/// A day, as RFC 3339 writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(pub NaiveDate);

text_schema!(Day, format: "date");
json_text!(Day);

/// What was counted last, and what is known about counting anew.
struct Known {
    stats: Option<Stats>,
    took: Duration,
    age: Duration,
    /// Whether anything may have changed since.
    changed: bool,
    few: bool,
}

/// The figures of a tenant. None: it has many users, and they are being counted for the first time.
///
/// # Errors
/// When the database fails.
pub async fn get(app: &App, tenant: TenantId) -> Result<Option<Stats>> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let known = Known::read(&tx, tenant).await?;
    if known.suffices() {
        tx.commit().await?;
        return Ok(known.stats);
    }
    if known.is_cheap() {
        tx.batch_execute(GIVE_UP).await?;
        match count(&tx, tenant).await {
            Ok(stats) => {
                tx.commit().await?;
                return Ok(Some(stats));
            }
            Err(error) if was_given_up(&error) => tx.rollback().await?,
            Err(error) => return Err(error),
        }
    } else {
        tx.commit().await?;
    }
    ask(app, &mut client, tenant).await?;
    Ok(known.stats)
}

fn was_given_up(error: &Error) -> bool {
    matches!(error, Error::Database(source) if source.code() == Some(&SqlState::QUERY_CANCELED))
}

/// Has the users of a tenant counted, unless that waits to be done.
async fn ask(app: &App, client: &mut Client, tenant: TenantId) -> Result<()> {
    let tx = db::as_tenant(client, tenant).await?;
    let options = Options { unique_key: Some("asked"), ..Options::default() };
    tenantry_queue::enqueue_with(&tx, tenant.0, &RollUpUsers {}, options).await?;
    tx.commit().await?;
    app.db.nudge();
    Ok(())
}

/// Counts the users of a tenant, unless that has been done meanwhile.
///
/// # Errors
/// When the database fails.
pub async fn roll_up(app: &App, tenant: TenantId) -> Result<()> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    if !Known::read(&tx, tenant).await?.suffices() {
        // A million users take about a second.
        tx.batch_execute("set local statement_timeout = '50s'").await?;
        count(&tx, tenant).await?;
    }
    Ok(tx.commit().await?)
}

impl Known {
    async fn read(tx: &Transaction<'_>, tenant: TenantId) -> Result<Self> {
        // An event is as old as its transaction, and was not there for whoever counted before COMMIT: no transaction that
        // changes users takes ten minutes.
        let statement = tx
            .prepare_cached(
                "select s.figures, s.took_ms, extract(epoch from now() - s.as_of)::float8 as age,
                   exists (select from tenantry.audit_events e
                     where e.tenant_id = $1 and e.id >= tenantry.uuid_floor(s.as_of - interval '10 minutes')) as changed,
                   coalesce((select t.used <= $2 from tenantry.tenant_seats t where t.tenant_id = $1), true) as few
                 from (select) always left join tenantry.user_stats s on s.tenant_id = $1",
            )
            .await?;
        Self::of(&tx.query_one(&statement, &[&tenant.0, &FEW]).await?)
    }

    fn of(row: &Row) -> Result<Self> {
        let figures: Option<Json<serde_json::Value>> = row.try_get("figures")?;
        let (took, age): (Option<i32>, Option<f64>) = (row.try_get("took_ms")?, row.try_get("age")?);
        Ok(Self {
            // Those that another version of this program counted may lack something.
            stats: figures.and_then(|Json(figures)| serde_json::from_value(figures).ok()),
            took: Duration::from_millis(took.unwrap_or(0).unsigned_abs().into()),
            age: Duration::from_secs_f64(age.unwrap_or(0.0).max(0.0)),
            changed: row.try_get("changed")?,
            few: row.try_get("few")?,
        })
    }

    /// Whether nobody needs to count.
    fn suffices(&self) -> bool {
        let rests = self.age < LEAST.max(self.took * REST);
        let Some(stats) = &self.stats else { return false };
        rests || !self.changed && self.age < MOST && stats.as_of.date_naive() == Utc::now().date_naive()
    }

    /// Whether a request can wait for it.
    fn is_cheap(&self) -> bool {
        self.few && self.took < SOON
    }
}

/// Counts in one statement, so that all figures are of one moment, and keeps what it has counted.
async fn count(tx: &Transaction<'_>, tenant: TenantId) -> Result<Stats> {
    let began = Instant::now();
    let sql = format!(
        "select statement_timestamp() as as_of,
           (select count(*) from tenantry.user_logins where tenant_id = $1 and {RECENT}) as recent_logins,
           (select coalesce(jsonb_agg(to_jsonb(g)), '[]') from (
              select role, is_active, email_verified, count(*) as users,
                case when created_at >= (d.since at time zone 'UTC') then (created_at at time zone 'UTC')::date end as day
              from tenantry.users, (select (statement_timestamp() at time zone 'UTC')::date - $2::int as since) d
              where tenant_id = $1 and deleted_at is null
              group by role, is_active, email_verified, day
            ) g) as groups"
    );
    let before = i32::try_from(DAYS - 1).unwrap_or(0);
    let row = tx.query_one(&tx.prepare_cached(&sql).await?, &[&tenant.0, &before]).await?;
    let Json(groups): Json<Vec<Group>> = row.try_get("groups")?;
    let stats = Stats::of(row.try_get("as_of")?, row.try_get("recent_logins")?, &groups);
    let took = i32::try_from(began.elapsed().as_millis()).unwrap_or(i32::MAX);
    let statement = tx
        .prepare_cached(
            "insert into tenantry.user_stats (tenant_id, as_of, took_ms, figures) values ($1, $2, $3, $4)
             on conflict (tenant_id) do update set as_of = excluded.as_of, took_ms = excluded.took_ms, figures = excluded.figures
             where user_stats.as_of < excluded.as_of",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &stats.as_of, &took, &Json(&stats)]).await?;
    Ok(stats)
}

/// Users who are alike in all that is counted.
#[derive(Debug, Deserialize)]
struct Group {
    role: Role,
    is_active: bool,
    email_verified: bool,
    /// When they were made; none: before the days that are told.
    day: Option<NaiveDate>,
    users: i64,
}

impl Stats {
    fn of(as_of: DateTime<Utc>, recent_logins: i64, groups: &[Group]) -> Self {
        let today = as_of.date_naive();
        let days = (0..DAYS).rev().filter_map(|back| today.checked_sub_days(Days::new(back)));
        let mut sign_ups: BTreeMap<_, _> = days.map(|day| (day, 0)).collect();
        let (mut by_role, mut by_state, mut by_verification) =
            (ByRole::default(), ByState::default(), ByVerification::default());
        for group in groups {
            let role = match group.role {
                Role::User => &mut by_role.user,
                Role::Admin => &mut by_role.admin,
                Role::SuperAdmin => &mut by_role.super_admin,
            };
            *role += group.users;
            *(if group.is_active { &mut by_state.active } else { &mut by_state.inactive }) += group.users;
            let verification = &mut by_verification;
            *(if group.email_verified {
                &mut verification.verified
            } else {
                &mut verification.unverified
            }) += group.users;
            if let Some(day) = group.day.and_then(|day| sign_ups.get_mut(&day)) {
                *day += group.users;
            }
        }
        Self {
            as_of,
            total_users: groups.iter().map(|group| group.users).sum(),
            by_role,
            by_state,
            by_verification,
            recent_logins,
            sign_ups: sign_ups.into_iter().map(|(day, users)| SignUps { day: Day(day), users }).collect(),
        }
    }
}
