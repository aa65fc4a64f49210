//! `tenantry cache`: what Redis holds of users, beside their rows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tenantry_accounts::{
    App, Error, TenantId, UserId,
    fields::{Email, FromText},
    tenants,
    users::cached::{self, CheckError, Compared, Fault, Found, Named, Scope, Suspect},
};
use tenantry_cache::Target;

use super::Result;
use crate::{config::Config, error::sources, state};

/// How many users are read at once.
const PAGE: i64 = 500;
/// What looks wrong is looked at again this much later: by then a change that Redis could not be told of in time has been
/// made good by its job.
const PAUSE: Duration = Duration::from_secs(3);
/// So many suspects are kept before they are looked at again.
const SUSPECTS: usize = 10_000;
/// How long a page is tried anew while Redis or the database does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct Cache {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Show what Redis holds of a user, beside the row
    Get {
        #[command(flatten)]
        user: OneUser,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Drop what Redis holds of a user or of a tenant; floors that protect stay or are placed
    Drop {
        /// The tenant's slug or id
        #[arg(long, value_name = "SLUG")]
        tenant: String,
        #[command(flatten)]
        whom: Whom,
    },
    /// Compare Redis with the database; exit code 1 if anything is wrong, repaired or not
    Verify {
        #[command(flatten)]
        whose: Whose,
        /// Remove what is wrong
        #[arg(long)]
        repair: bool,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
struct OneUser {
    /// The tenant's slug or id
    #[arg(long, value_name = "SLUG")]
    tenant: String,
    #[command(flatten)]
    by: By,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct By {
    /// The user's id
    #[arg(long, value_name = "UUID")]
    id: Option<UserId>,
    /// The user's address
    #[arg(long)]
    email: Option<String>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Whom {
    /// The user's id
    #[arg(long, value_name = "UUID")]
    id: Option<UserId>,
    /// The user's address
    #[arg(long)]
    email: Option<String>,
    /// Every user of the tenant
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Whose {
    /// The tenant's slug or id
    #[arg(long, value_name = "SLUG")]
    tenant: Option<String>,
    /// Every tenant
    #[arg(long)]
    all: bool,
}

type Failed = Box<dyn std::error::Error>;

impl Cache {
    pub(super) async fn run(self, config: Config) -> Result {
        if config.redis_url.is_none() {
            return Err("REDIS_URL is not set: there is nothing to look into".into());
        }
        let app = state::app(&config)?;
        // The first connection tells the timeline, and so under which names Redis is looked into.
        drop(app.db.client().await.map_err(|error| sources(&error))?);
        app.cache.ping().await.map_err(|error| format!("REDIS_URL: {}", sources(&error)))?;
        match self.action {
            Action::Get { user, json } => get(&app, &user, json).await,
            Action::Drop { tenant, whom } => drop_entries(&app, &tenant, whom).await,
            Action::Verify { whose, repair, json } => verify(&app, whose, repair, json).await,
        }
    }
}

async fn tenant(app: &App, reference: &str) -> std::result::Result<TenantId, Failed> {
    tenants::find(app, reference).await.map_err(|error| match error {
        Error::NoTenant => format!("--tenant: there is no tenant {reference:?}").into(),
        error => sources(&error).into(),
    })
}

async fn user(
    app: &App,
    tenant_name: &str,
    id: Option<UserId>,
    email: Option<&str>,
) -> std::result::Result<Named, Failed> {
    let tenant = tenant(app, tenant_name).await?;
    let Some(email) = email else {
        // Who is not, may be in Redis all the same. The address, for the pointer, is the row's.
        let id = id.ok_or("--id or --email: say who")?;
        let named = Named { tenant, id, email: None };
        let compared =
            cached::compare(app, std::slice::from_ref(&named)).await.map_err(|error| sources(&error))?;
        let email = compared.into_iter().next().and_then(|compared| compared.email);
        return Ok(Named { email, ..named });
    };
    let email = Email::from_text(email).map_err(|_| format!("--email: {email:?} is no e-mail address"))?;
    cached::named(app, tenant, &email).await.map_err(|error| match error {
        Error::NoUser => format!("tenant {tenant_name:?} has no user {:?}", email.as_str()).into(),
        error => sources(&error).into(),
    })
}

async fn get(app: &App, one: &OneUser, as_json: bool) -> Result {
    let user = user(app, &one.tenant, one.by.id, one.by.email.as_deref()).await?;
    let compared =
        cached::compare(app, std::slice::from_ref(&user)).await.map_err(|error| sources(&error))?;
    let compared = compared.into_iter().next().ok_or("nothing was compared")?;
    if as_json {
        println!("{:#}", in_json(&user, &compared));
        return Ok(());
    }
    let line = |name: &str, text: String| println!("{name:<10} {text}");
    let held = &compared.held;
    line("user", format!("{} of tenant {}", user.id, user.tenant));
    line("row", format!("version {}, {}", compared.row.version(), compared.row.state()));
    line("key", held.name.clone());
    line(
        "value",
        match &held.value {
            None => "none".into(),
            Some(value) => {
                let verdict = match compared.held.mismatch(None, &compared.row) {
                    None => "as the row".into(),
                    Some(mismatch) => mismatch.name().to_uppercase(),
                };
                match &value.decoded {
                    Some(decoded) => format!(
                        "version {}, {}, {} bytes, schema {}: {verdict}",
                        decoded.version(),
                        decoded.state(),
                        value.bytes,
                        schema(&value.line)
                    ),
                    None => format!(
                        "version {:?}, {} bytes, cannot be shown as this row's: {verdict}; it begins with {:?}",
                        value.version, value.bytes, value.line
                    ),
                }
            }
        },
    );
    line("floor", held.floor.map_or("none".into(), |floor| format!("version {floor}")));
    line(
        "lease",
        match &held.lease {
            None => "none".into(),
            Some(lease) if lease.left.is_zero() => format!("{}, run out", lease.token),
            Some(lease) => format!("{}, {} left", lease.token, time(lease.left)),
        },
    );
    line("stays", held.left.map_or("-".into(), time));
    if let Some((name, target)) = &compared.pointer {
        line(
            "pointer",
            match target {
                Target::Nothing => format!("none; its key would be {name}"),
                Target::Id(id) if *id == user.id.0 => format!("leads to this user; {name}"),
                Target::Id(id) => format!("LEADS TO {id}; {name}"),
                Target::Foreign => format!("IS NO ID; {name}"),
            },
        );
    }
    Ok(())
}

fn time(left: Duration) -> String {
    humantime::format_duration(Duration::from_millis(left.as_millis().try_into().unwrap_or(u64::MAX)))
        .to_string()
}

/// The first word of the data.
fn schema(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

fn in_json(user: &Named, compared: &Compared) -> Value {
    let held = &compared.held;
    let millis = |left: Duration| u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    json!({
        "tenant_id": user.tenant,
        "user_id": user.id,
        "row": {"version": compared.row.version(), "state": compared.row.state()},
        "key": held.name,
        "value": held.value.as_ref().map(|value| json!({
            "version": value.version,
            "decodes": value.decoded.is_some(),
            "state": value.decoded.as_ref().map(|decoded| decoded.state()),
            "schema": schema(&value.line),
            "bytes": value.bytes,
        })),
        "mismatch": held.mismatch(None, &compared.row).map(|mismatch| mismatch.name()),
        "floor": held.floor,
        "lease": held.lease.as_ref().map(|lease| json!({"token": lease.token, "left_ms": millis(lease.left)})),
        "left_ms": held.left.map(millis),
        "pointer": compared.pointer.as_ref().map(|(name, target)| json!({
            "key": name,
            "leads_to": match target { Target::Id(id) => Some(id), _ => None },
        })),
    })
}

async fn drop_entries(app: &App, tenant_name: &str, whom: Whom) -> Result {
    if !whom.all {
        let user = user(app, tenant_name, whom.id, whom.email.as_deref()).await?;
        cached::forget(app, std::slice::from_ref(&user)).await.map_err(|error| sources(&error))?;
        println!("dropped {}; processes may show what they hold for CACHE_LOCAL_TTL", user.id);
        return Ok(());
    }
    let scope = Scope::Tenant(tenant(app, tenant_name).await?);
    let mut walk = Walk::begin(app, scope).await?;
    while let Some(users) = walk.next(app).await? {
        patiently(|| cached::forget(app, &users)).await?;
        walk.progress.inc(users.len() as u64);
    }
    let users = walk.end();
    println!("dropped {users} users; processes may show what they hold for CACHE_LOCAL_TTL");
    Ok(())
}

async fn verify(app: &App, whose: Whose, repair: bool, as_json: bool) -> Result {
    let scope = match &whose.tenant {
        Some(reference) => Scope::Tenant(tenant(app, reference).await?),
        None => Scope::All,
    };
    let mut report = Report { counts: BTreeMap::new(), repair, as_json };
    let mut walk = Walk::begin(app, scope).await?;
    let mut suspects = vec![];
    while let Some(users) = walk.next(app).await? {
        suspects.append(&mut patiently(|| cached::suspects(app, &users)).await?);
        if suspects.len() >= SUSPECTS {
            report.judge(app, &walk.progress, &std::mem::take(&mut suspects)).await?;
        }
        walk.progress.inc(users.len() as u64);
    }
    report.judge(app, &walk.progress, &suspects).await?;
    let users = walk.end();
    report.sum_up(users)
}

/// What was found so far.
struct Report {
    counts: BTreeMap<&'static str, u64>,
    repair: bool,
    as_json: bool,
}

impl Report {
    /// Looks again at those who were suspected, and tells what is wrong for certain.
    async fn judge(&mut self, app: &App, progress: &ProgressBar, suspects: &[Suspect]) -> Result {
        if suspects.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        for some in suspects.chunks(PAGE as usize) {
            for found in patiently(|| cached::confirm(app, some)).await? {
                if self.repair {
                    patiently(|| async { Ok(cached::repair(app, &found).await?) }).await?;
                }
                *self.counts.entry(found.fault.name()).or_default() += 1;
                progress.suspend(|| self.tell(&found));
            }
        }
        Ok(())
    }

    fn tell(&self, found: &Found) {
        let Found { user, fault, compared } = found;
        if self.as_json {
            let mut line = in_json(user, compared);
            line["fault"] = json!(fault.name());
            line["repaired"] = json!(self.repair);
            println!("{line}");
            return;
        }
        let what = match fault {
            Fault::Entry(_) => {
                let held = compared.held.value.as_ref().map_or("", |value| &value.version);
                format!(
                    "Redis has version {held:?}, the row {}: {}",
                    compared.row.version(),
                    compared.held.name
                )
            }
            Fault::Pointer => match &compared.pointer {
                Some((name, Target::Id(id))) => format!("the address leads to {id}: {name}"),
                Some((name, _)) => format!("the address leads to no id: {name}"),
                None => String::new(),
            },
        };
        let repaired = if self.repair { "; removed" } else { "" };
        println!("{:<8} {}/{}  {what}{repaired}", fault.name(), user.tenant, user.id);
    }

    fn sum_up(self, users: u64) -> Result {
        let wrong: u64 = self.counts.values().sum();
        if self.as_json {
            println!(
                "{}",
                json!({"users": users, "wrong": wrong, "faults": self.counts, "repaired": self.repair})
            );
        } else {
            let faults: Vec<_> = self.counts.iter().map(|(fault, n)| format!("{n} {fault}")).collect();
            let faults = if faults.is_empty() { "nothing is wrong".to_owned() } else { faults.join(", ") };
            println!("compared {users} users: {faults}");
        }
        match (wrong, self.repair) {
            (0, _) => Ok(()),
            (n, true) => Err(format!("{n} wrong and removed, see above").into()),
            (n, false) => Err(format!("{n} wrong, see above; `--repair` removes them").into()),
        }
    }
}

/// A walk through users, page by page.
struct Walk {
    scope: Scope,
    last: Option<Named>,
    progress: ProgressBar,
}

impl Walk {
    async fn begin(app: &App, scope: Scope) -> std::result::Result<Self, Failed> {
        // Only for the bar: a table that cannot be counted in a minute is walked through all the same.
        let progress = match cached::count(app, scope).await {
            Ok(users) => ProgressBar::new(users).with_style(ProgressStyle::with_template(
                "{bar:40} {human_pos}/{human_len} users, {per_sec}, {eta} left",
            )?),
            Err(_) => ProgressBar::no_length()
                .with_style(ProgressStyle::with_template("{human_pos} users, {per_sec}")?),
        };
        Ok(Self { scope, last: None, progress })
    }

    async fn next(&mut self, app: &App) -> std::result::Result<Option<Vec<Named>>, Failed> {
        let (scope, last) = (self.scope, self.last.as_ref());
        let users = patiently(|| async { Ok(cached::page(app, scope, last, PAGE).await?) }).await?;
        self.last = users.last().cloned();
        Ok(self.last.is_some().then_some(users))
    }

    fn end(self) -> u64 {
        self.progress.finish_and_clear();
        self.progress.position()
    }
}

/// Does `work` again while one of the servers does not answer, for a while: a walk through millions must not end over a hiccup.
async fn patiently<T, F: Future<Output = std::result::Result<T, CheckError>>>(
    work: impl Fn() -> F,
) -> std::result::Result<T, Failed> {
    let start = Instant::now();
    loop {
        match work().await {
            Ok(done) => return Ok(done),
            Err(error) if start.elapsed() > PATIENCE => return Err(sources(&error).into()),
            Err(error) => {
                tracing::debug!("tried again: {}", sources(&error));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}
