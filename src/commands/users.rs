//! `tenantry users`: users from the shell, as an operator. The first super administrator is made here.

mod export;
mod kept;

use clap::{Args, Subcommand, ValueEnum};
use tenantry_accounts::{
    Actor, App, Error, TenantId, UserId,
    fields::{Email, FromText, Name},
    idempotency::Once,
    users::{self, Change, Filter, NewUser, Order, Part, Password, Role, Selection, SortBy, User, Wanted},
};

use super::{
    Result,
    people::{self, Failed, field, hash_from_stdin, password, said, time},
    tenants,
};
use crate::config::Config;

/// So many users are read at once.
const PAGE: u32 = 1000;

#[derive(Args, Debug)]
pub(super) struct Users {
    #[command(subcommand)]
    command: Command,
    /// As JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List users, the newest first, inactive ones too
    List {
        #[command(flatten)]
        tenant: OfTenant,
        /// Part of the name or the address, in any case
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Of this role only
        #[arg(long, value_enum)]
        role: Option<RoleName>,
        /// How many, at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show a user
    Show(OneUser),
    /// Make a user, or a super administrator
    Create {
        /// The tenant's slug or id
        #[arg(
            long,
            value_name = "SLUG",
            required_unless_present = "super_admin",
            conflicts_with = "super_admin"
        )]
        tenant: Option<String>,
        /// One who manages all tenants, in the tenant `system`
        #[arg(long, conflicts_with = "role")]
        super_admin: bool,
        /// The user's address
        #[arg(long)]
        email: String,
        /// The user's full name
        #[arg(long)]
        name: String,
        /// What the user may do
        #[arg(long, value_enum, default_value_t = RoleName::User)]
        role: RoleName,
        /// Read the password from standard input, one line
        #[arg(long)]
        password_stdin: bool,
        /// Do not ask for a password; it is chosen by mail
        #[arg(long, conflicts_with = "password_stdin")]
        no_password: bool,
        /// Read a hash of the password that the user had elsewhere from standard input: of Argon2 or scrypt (PHC), or bcrypt
        #[arg(long, conflicts_with_all = ["password_stdin", "no_password"])]
        password_hash_stdin: bool,
        /// Take the address for theirs, without a mail
        #[arg(long)]
        verified: bool,
    },
    /// Make users out of a file, CSV or a JSON object a line
    Import(super::import::Import),
    /// Change a user
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Update {
        #[command(flatten)]
        user: OneUser,
        /// A new address, which counts when it is proven
        #[arg(long, group = "what")]
        email: Option<String>,
        /// The new address counts at once, and is to be verified
        #[arg(long, requires = "email")]
        at_once: bool,
        /// A new name
        #[arg(long, group = "what")]
        name: Option<String>,
        /// A new role; tokens of the old one are void
        #[arg(long, value_enum, group = "what")]
        role: Option<RoleName>,
    },
    /// Let a user sign in again
    Activate(OneUser),
    /// Let a user not sign in any more, and end all sessions
    Deactivate(OneUser),
    /// Delete a user; address and seat are free again
    Delete(OneUser),
    /// List those who were deleted and may be restored
    Deleted(OfTenant),
    /// Bring a deleted user back, by the id
    Restore(OneUser),
    /// Write all users to standard output
    Export(export::Export),
    /// Print all that is held of a user
    Data(OneUser),
    /// Erase a user, for good; those who are deleted by the id
    Erase(OneUser),
}

#[derive(Args, Debug)]
struct OfTenant {
    /// The tenant's slug or id
    #[arg(long, value_name = "SLUG")]
    tenant: String,
}

#[derive(Args, Debug)]
struct OneUser {
    #[command(flatten)]
    tenant: OfTenant,
    /// The user's address or id
    #[arg(value_name = "EMAIL|ID")]
    user: String,
}

/// A role that may be given, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleName {
    User,
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::User => Self::User,
            RoleName::Admin => Self::Admin,
        }
    }
}

impl Users {
    pub(super) async fn run(self, config: Config) -> Result {
        let (app, json) = (people::app(&config).await?, self.json);
        match self.command {
            Command::List { tenant, search, role, limit } => {
                let (tenant, _) = tenants::open(&app, &tenant.tenant).await?;
                let filter = Filter { search, role: role.map(Role::from), ..Filter::default() };
                list(&app, tenant, &filter, limit, json).await
            }
            Command::Show(user) => {
                let (_, user) = find(&app, &user).await?;
                show(&user, json)
            }
            Command::Create {
                tenant,
                super_admin,
                email,
                name,
                role,
                password_stdin,
                no_password,
                password_hash_stdin,
                verified,
            } => {
                let actor = match &tenant {
                    Some(tenant) => tenants::open(&app, tenant).await?.1,
                    None => Actor::operator(TenantId::SYSTEM),
                };
                let new = NewUser {
                    email: field::<Email>("--email", &email)?,
                    name: field::<Name>("--name", &name)?,
                    role: if super_admin { Role::SuperAdmin } else { role.into() },
                    password: match (no_password, password_hash_stdin) {
                        (true, _) => None,
                        (_, true) => Some(Password::Hashed(hash_from_stdin()?)),
                        _ => password(password_stdin)?.map(Password::Chosen),
                    },
                    verified,
                };
                let mailed = new.password.is_none();
                let user =
                    users::create(&app, actor, new, Once::unnamed()).await.map_err(|error| said(&error))?;
                show(&user, json)?;
                if mailed {
                    eprintln!("a worker mails the link by which they choose a password");
                }
                Ok(())
            }
            Command::Import(import) => import.run(app, &config, json).await,
            Command::Update { user, email, at_once, name, role } => {
                let change = Change {
                    email: email.map(|email| field::<Email>("--email", &email)).transpose()?,
                    at_once,
                    name: name.map(|name| field::<Name>("--name", &name)).transpose()?,
                    role: role.map(Role::from),
                    is_active: None,
                };
                change_to(&app, &user, change, json).await
            }
            Command::Activate(user) => {
                change_to(&app, &user, Change { is_active: Some(true), ..Change::default() }, json).await
            }
            Command::Deactivate(user) => {
                change_to(&app, &user, Change { is_active: Some(false), ..Change::default() }, json).await
            }
            Command::Deleted(tenant) => kept::deleted(&app, &tenant, json).await,
            Command::Restore(user) => kept::restore(&app, &user, json).await,
            Command::Export(export) => export.run(&app).await,
            Command::Data(user) => kept::data(&app, &user).await,
            Command::Erase(user) => kept::erase(&app, &user, json).await,
            Command::Delete(user) => {
                let (actor, found) = find(&app, &user).await?;
                users::delete(&app, actor, found.id, None).await.map_err(|error| wrong(&error, &user))?;
                match json {
                    true => println!("{}", serde_json::json!({"id": found.id, "deleted": true})),
                    false => println!("user {} is deleted", found.id),
                }
                Ok(())
            }
        }
    }
}

async fn change_to(app: &App, user: &OneUser, change: Change, json: bool) -> Result {
    let (actor, found) = find(app, user).await?;
    let changed = users::update(app, actor, found.id, change, None).await;
    show(&changed.map_err(|error| wrong(&error, user))?, json)
}

/// Looks a user up, and an operator in their tenant.
async fn find(app: &App, user: &OneUser) -> std::result::Result<(Actor, User), Failed> {
    let (tenant, actor) = tenants::open(app, &user.tenant.tenant).await?;
    let found = match user.user.parse::<UserId>() {
        Ok(id) => users::get(app, tenant, id, None).await,
        Err(_) => {
            let email =
                Email::from_text(&user.user).map_err(|_| "EMAIL|ID: is neither an address nor an id")?;
            users::get_by_email(app, tenant, &email).await
        }
    };
    let found = found.map_err(|error| wrong(&error, user))?;
    Ok((actor, serde_json::from_slice(&found.entry.body)?))
}

fn wrong(error: &Error, user: &OneUser) -> Failed {
    match error {
        Error::NoUser => format!("tenant {:?} has no user {:?}", user.tenant.tenant, user.user).into(),
        error => said(error),
    }
}

async fn list(app: &App, tenant: TenantId, filter: &Filter, limit: u32, json: bool) -> Result {
    if !json {
        println!(
            "{:<36}  {:<32}  {:<11}  {:<8}  {:<8}  {:<20}  name",
            "id", "email", "role", "state", "verified", "last sign-in"
        );
    }
    let (mut listed, mut after) = (0, None);
    while listed < limit {
        let part = PAGE.min(limit - listed);
        let selection = Selection { filter: filter.clone(), sort_by: SortBy::CreatedAt, order: Order::Desc };
        let wanted = Wanted { selection, part: Part::After(after), limit: part.into(), figures: false };
        let found = users::list(app, tenant, wanted, true).await.map_err(|error| said(&error))?;
        for user in &found.users {
            if json {
                println!("{}", serde_json::to_string(user)?);
            } else {
                println!(
                    "{:<36}  {:<32}  {:<11}  {:<8}  {:<8}  {:<20}  {}",
                    user.id,
                    user.email.as_str(),
                    user.role.as_str(),
                    condition(user),
                    if user.email_verified { "yes" } else { "no" },
                    user.last_login_at.map_or("-".into(), time),
                    user.name
                );
            }
        }
        listed += part;
        after = found.next.clone();
        if after.is_none() {
            break;
        }
    }
    Ok(())
}

fn condition(user: &User) -> &'static str {
    if user.is_active { "active" } else { "inactive" }
}

fn show(user: &User, json: bool) -> Result {
    if json {
        println!("{}", serde_json::to_string(user)?);
        return Ok(());
    }
    println!("id         {}", user.id);
    println!("tenant     {}", user.tenant_id);
    println!("email      {}", user.email.as_str());
    println!("wants      {}", user.pending_email.as_ref().map_or("-", Email::as_str));
    println!("verified   {}", if user.email_verified { "yes" } else { "no" });
    println!("name       {}", user.name);
    println!("role       {}", user.role.as_str());
    println!("state      {}", condition(user));
    println!("signed in  {}", user.last_login_at.map_or("-".into(), time));
    println!("created    {}", time(user.created_at));
    println!("changed    {}", time(user.updated_at));
    println!("version    {}", user.version);
    Ok(())
}
