//! `tenantry tenants`: tenants from the shell, as an operator.

use clap::{Args, Subcommand, ValueEnum};
use tenantry_accounts::{
    Actor, App, Error, TenantId,
    fields::{Email, Name, Slug},
    tenants::{self, Change, Filter, Plan, SignUp, Tenant},
};

use super::{
    Result,
    people::{self, Failed, field, from_stdin, said, time},
};
use crate::config::Config;

#[derive(Args, Debug)]
pub(super) struct Tenants {
    #[command(subcommand)]
    command: Command,
    /// As JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List tenants, the newest first
    List {
        /// With this plan only
        #[arg(long, value_enum)]
        plan: Option<PlanName>,
        /// Part of the name or the slug, in any case
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Suspended ones only
        #[arg(long)]
        suspended: bool,
        /// Closed ones, which can be opened again or wait to be purged
        #[arg(long)]
        closed: bool,
        /// How many, at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show a tenant, be it closed, and its seats
    Show {
        /// Its slug or id
        tenant: String,
    },
    /// Make a tenant with its first administrator
    Create {
        /// Its name in URLs and at sign-in
        slug: String,
        /// Its name
        #[arg(long)]
        name: String,
        /// What it pays for
        #[arg(long, value_enum, default_value_t = PlanName::Basic)]
        plan: PlanName,
        /// The administrator's address; the mail to choose a password goes there
        #[arg(long, value_name = "EMAIL")]
        admin_email: String,
        /// The administrator's name
        #[arg(long, value_name = "NAME")]
        admin_name: String,
        /// Read the administrator's password from standard input, one line
        #[arg(long)]
        password_stdin: bool,
    },
    /// Change a tenant
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Update {
        /// Its slug or id
        tenant: String,
        /// A new name
        #[arg(long, group = "what")]
        name: Option<String>,
        /// A new plan, with its seats
        #[arg(long, value_enum, group = "what")]
        plan: Option<PlanName>,
        /// Nobody of it signs in, and every token is void, until it is resumed
        #[arg(long, group = "what", conflicts_with = "resume")]
        suspend: bool,
        /// The end of that
        #[arg(long, group = "what")]
        resume: bool,
    },
    /// Close a tenant; it is purged when TENANT_GRACE is over
    Close {
        /// Its slug or id
        tenant: String,
    },
    /// Open a closed tenant again, as it was
    Reopen {
        /// Its slug or id
        tenant: String,
    },
}

/// A plan, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PlanName {
    Basic,
    Pro,
    Enterprise,
}

impl From<PlanName> for Plan {
    fn from(name: PlanName) -> Self {
        match name {
            PlanName::Basic => Self::Basic,
            PlanName::Pro => Self::Pro,
            PlanName::Enterprise => Self::Enterprise,
        }
    }
}

impl Tenants {
    pub(super) async fn run(self, config: Config) -> Result {
        let (app, json) = (people::app(&config).await?, self.json);
        match self.command {
            Command::List { plan, search, suspended, closed, limit } => {
                let is_active = suspended.then_some(false);
                let filter = Filter { plan: plan.map(Plan::from), is_active, search, closed, before: None };
                list(&app, &filter, limit, json).await
            }
            Command::Show { tenant } => {
                let (id, actor) = any(&app, &tenant).await?;
                let found = tenants::get(&app, actor, id).await.map_err(|error| wrong(&error, &tenant))?;
                show(&app, &found, json).await
            }
            Command::Create { slug, name, plan, admin_email, admin_name, password_stdin } => {
                let new = SignUp {
                    name: field::<Name>("--name", &name)?,
                    slug: field::<Slug>("SLUG", &slug)?,
                    email: field::<Email>("--admin-email", &admin_email)?,
                    admin_name: field::<Name>("--admin-name", &admin_name)?,
                    password: if password_stdin { Some(from_stdin()?) } else { None },
                };
                let actor = Actor::operator(TenantId::SYSTEM);
                let made = tenants::create(&app, actor, new, plan.into()).await;
                let (tenant, _) = made.map_err(|error| wrong(&error, &slug))?;
                show(&app, &tenant, json).await
            }
            Command::Update { tenant, name, plan, suspend, resume } => {
                let (id, actor) = open(&app, &tenant).await?;
                let change = Change {
                    name: name.map(|name| field::<Name>("--name", &name)).transpose()?,
                    plan: plan.map(Plan::from),
                    is_active: (suspend || resume).then_some(resume),
                };
                let changed = tenants::update(&app, actor, id, change, None).await;
                show(&app, &changed.map_err(|error| wrong(&error, &tenant))?, json).await
            }
            Command::Close { tenant } => {
                let (id, actor) = open(&app, &tenant).await?;
                let closed = tenants::close(&app, actor, id, None).await;
                show(&app, &closed.map_err(|error| wrong(&error, &tenant))?, json).await
            }
            Command::Reopen { tenant } => {
                let (id, actor) = any(&app, &tenant).await?;
                let reopened = tenants::reopen(&app, actor, id).await.map_err(|error| match error {
                    Error::NoTenant => {
                        format!("the period of grace of tenant {tenant:?} is over: it is purged").into()
                    }
                    error => wrong(&error, &tenant),
                })?;
                show(&app, &reopened, json).await
            }
        }
    }
}

/// A tenant that is open, and an operator in it.
pub(super) async fn open(app: &App, tenant: &str) -> std::result::Result<(TenantId, Actor), Failed> {
    let id = tenants::find(app, tenant).await.map_err(|error| wrong(&error, tenant))?;
    Ok((id, Actor::operator(id)))
}

async fn any(app: &App, tenant: &str) -> std::result::Result<(TenantId, Actor), Failed> {
    let id = tenants::find_any(app, tenant).await.map_err(|error| wrong(&error, tenant))?;
    Ok((id, Actor::operator(id)))
}

fn wrong(error: &Error, tenant: &str) -> Failed {
    match error {
        Error::NoTenant => {
            format!("there is no open tenant {tenant:?}; closed ones: tenantry tenants list --closed").into()
        }
        Error::SlugTaken => format!("there is a tenant {tenant:?} already, be it closed").into(),
        Error::Forbidden => "the tenant of super administrators is neither suspended nor closed".into(),
        error => said(error),
    }
}

async fn list(app: &App, filter: &Filter, limit: u32, json: bool) -> Result {
    let operator = Actor::operator(TenantId::SYSTEM);
    let found = tenants::list(app, operator, filter, limit.into()).await.map_err(|error| said(&error))?;
    if !json {
        println!("{:<36}  {:<24}  {:<10}  {:<9}  {:<20}  name", "id", "slug", "plan", "state", "created");
    }
    for tenant in &found {
        if json {
            println!("{}", serde_json::to_string(tenant)?);
        } else {
            println!(
                "{:<36}  {:<24}  {:<10}  {:<9}  {:<20}  {}",
                tenant.id,
                tenant.slug,
                tenant.plan.as_str(),
                condition(tenant),
                time(tenant.created_at),
                tenant.name
            );
        }
    }
    Ok(())
}

fn condition(tenant: &Tenant) -> &'static str {
    match (tenant.closed_at, tenant.is_active) {
        (Some(_), _) => "closed",
        (None, true) => "active",
        (None, false) => "suspended",
    }
}

async fn show(app: &App, tenant: &Tenant, json: bool) -> Result {
    if json {
        println!("{}", serde_json::to_string(tenant)?);
        return Ok(());
    }
    let seats = tenants::used(app, tenant.id).await.map_err(|error| said(&error))?;
    let most = seats.max.map_or("no limit".into(), |max| max.to_string());
    println!("id         {}", tenant.id);
    println!("slug       {}", tenant.slug);
    println!("name       {}", tenant.name);
    println!("plan       {}", tenant.plan.as_str());
    println!("state      {}", condition(tenant));
    println!("seats      {} of {most}", seats.used);
    println!("storage    {} GB", tenant.storage_limit_gb);
    println!("created    {}", time(tenant.created_at));
    println!("changed    {}", time(tenant.updated_at));
    println!("version    {}", tenant.version);
    if let (Some(closed_at), Some(purge_after)) = (tenant.closed_at, tenant.purge_after) {
        println!("closed     {}", time(closed_at));
        println!(
            "purged     after {}; until then: tenantry tenants reopen {}",
            time(purge_after),
            tenant.slug
        );
    }
    Ok(())
}
