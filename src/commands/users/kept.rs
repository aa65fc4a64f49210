//! What is kept of a user: who was deleted and may be restored, all there is of a person, and that it is erased.

use serde_json::json;
use tenantry_accounts::{
    Actor, App, UserId,
    fields::{Email, FromText},
    privacy,
    users::{self, DeletedBefore},
};

use super::{OfTenant, OneUser, show, tenants, wrong};
use crate::commands::{
    Result,
    people::{Failed, said, time},
};

/// So many users are read at once.
const PAGE: i64 = 1000;

/// Lists those who may be restored, who was deleted last first.
pub(super) async fn deleted(app: &App, tenant: &OfTenant, json: bool) -> Result {
    let (_, actor) = tenants::open(app, &tenant.tenant).await?;
    if !json {
        println!("{:<36}  {:<32}  {:<20}  {:<20}  name", "id", "email", "deleted", "until");
    }
    let mut before = None;
    loop {
        let found = users::deleted(app, actor, before, PAGE).await.map_err(|error| said(&error))?;
        for found in &found {
            if json {
                println!("{}", serde_json::to_string(found)?);
                continue;
            }
            let (user, deleted, until) = (&found.user, time(found.deleted_at), time(found.purge_after));
            println!(
                "{:<36}  {:<32}  {deleted:<20}  {until:<20}  {}",
                user.id,
                user.email.as_str(),
                user.name
            );
        }
        let Some(last) = found.last() else { return Ok(()) };
        before = Some(DeletedBefore { deleted_at: last.deleted_at, id: last.user.id.0 });
    }
}

/// Brings a user back, by the id.
pub(super) async fn restore(app: &App, user: &OneUser, json: bool) -> Result {
    let (actor, id) = named(app, user).await?;
    let restored = users::restore(app, actor, id, None).await.map_err(|error| wrong(&error, user))?;
    show(&restored, json)?;
    eprintln!("a worker mails the link by which they choose a password");
    Ok(())
}

/// Prints all that is held of a person.
pub(super) async fn data(app: &App, user: &OneUser) -> Result {
    let (actor, id) = named(app, user).await?;
    let data = privacy::data(app, actor, id).await.map_err(|error| wrong(&error, user))?;
    println!("{}", serde_json::to_string_pretty(&data)?);
    Ok(())
}

/// Erases a person.
pub(super) async fn erase(app: &App, user: &OneUser, json: bool) -> Result {
    let (actor, id) = named(app, user).await?;
    let erasure = privacy::erase(app, actor, id, None).await.map_err(|error| wrong(&error, user))?;
    if json {
        println!("{}", json!(erasure));
        return Ok(());
    }
    match erasure.finished_at {
        Some(at) => println!("user {id} is erased, the last copy since {}", time(at)),
        None => {
            println!("user {id} is erased; a worker erases the copies, run this again to see that it has")
        }
    }
    Ok(())
}

/// By the id whoever it is, by the address those who are not deleted.
async fn named(app: &App, user: &OneUser) -> std::result::Result<(Actor, UserId), Failed> {
    let (tenant, actor) = tenants::open(app, &user.tenant.tenant).await?;
    if let Ok(id) = user.user.parse() {
        return Ok((actor, id));
    }
    let email = Email::from_text(&user.user).map_err(|_| "EMAIL|ID: is neither an address nor an id")?;
    let found = users::get_by_email(app, tenant, &email).await.map_err(|error| wrong(&error, user))?;
    let user: users::User = serde_json::from_slice(&found.entry.body)?;
    Ok((actor, user.id))
}
