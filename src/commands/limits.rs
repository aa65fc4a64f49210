//! `tenantry limits`: what is left to somebody, and giving it all back to who is locked out.

use std::{net::IpAddr, time::Duration};

use clap::{Args, Subcommand};
use serde_json::json;
use tenantry_accounts::{Actor, App, Error, fields::Email, tenants};
use uuid::Uuid;

use super::{
    Result,
    people::{self, Failed, field, said},
};
use crate::{
    config::Config,
    error::sources,
    limits::{Limit, Named, Rate, Shown, What},
};

#[derive(Args, Debug)]
pub(super) struct Limits {
    #[command(subcommand)]
    action: Action,
    /// As JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

const KEYS: &str = "Keys:
  203.0.113.9                    a client address (of IPv6 its /64): sign-ups, and requests without a credential
  acme, or the id of a tenant    the quota of a tenant by its plan
  login:acme:ada@acme.example    wrong passwords at sign-in, by tenant and address
  forgot:acme:ada@acme.example   mails to choose another password, likewise
  resend:acme:ada@acme.example   verification mails, likewise
  password:acme:USER_ID          wrong current passwords of a signed-in user
  caller:ID                      requests of a user or an API key

Requests by address and by caller are counted by each process for itself, and only it knows what is left.";

#[derive(Subcommand, Debug)]
enum Action {
    /// Show the limits of a key, and what Redis knows is left of them
    #[command(after_help = KEYS)]
    Show {
        /// Whose
        key: String,
    },
    /// Give a key all of its allowance back, where Redis counts it
    #[command(after_help = KEYS)]
    Reset {
        /// Whose
        key: String,
    },
}

impl Limits {
    pub(super) async fn run(self, config: Config) -> Result {
        if config.redis_url.is_none() {
            return Err(
                "REDIS_URL is not set: each process counts for itself, and only it knows what is left".into(),
            );
        }
        let app = people::app(&config).await?;
        app.cache.ping().await.map_err(|error| format!("REDIS_URL: {}", sources(&error)))?;
        let (Action::Show { key } | Action::Reset { key }) = &self.action;
        let limits = find(&app, &config, key).await?;
        if matches!(self.action, Action::Reset { .. }) {
            if limits.iter().all(|limit| limit.rate == Rate::Off) {
                return Err("this is not limited: its rate is off".into());
            }
            if limits.iter().all(|limit| !limit.is_shared()) {
                return Err(
                    "each process counts this for itself; it is whole again when the process begins anew"
                        .into(),
                );
            }
            for limit in &limits {
                if !limit.reset(&app.cache).await {
                    return Err("Redis has not answered; try again".into());
                }
            }
        }
        for limit in &limits {
            let shown = limit.show(&app.cache).await;
            if limit.is_shared() && shown.is_none() {
                return Err("Redis has not answered; try again".into());
            }
            if self.json { tell_json(key, limit, shown) } else { tell(limit, shown) }
        }
        Ok(())
    }
}

async fn find(app: &App, config: &Config, key: &str) -> std::result::Result<Vec<Limit>, Failed> {
    if let Ok(address) = key.parse::<IpAddr>() {
        return Ok(Limit::of(config, Named::Address(address)));
    }
    let Some((kind, rest)) = key.split_once(':') else {
        let id = tenants::find(app, key).await.map_err(|error| wrong(&error, key))?;
        let found = tenants::get(app, Actor::operator(id), id).await.map_err(|error| wrong(&error, key))?;
        return Ok(Limit::of(config, Named::Tenant(id, found.plan)));
    };
    if kind == "caller" {
        rest.parse::<Uuid>().map_err(|_| "caller: takes the id of a user or an API key")?;
        return Ok(Limit::of(config, Named::Caller));
    }
    let (tenant, whom) = rest.split_once(':').ok_or("KEY: write it as in the list of --help")?;
    // Who is not is counted as well, by what was written.
    let tenant = match tenants::find(app, tenant).await {
        Ok(id) => id.to_string(),
        Err(Error::NoTenant) => tenant.to_owned(),
        Err(error) => return Err(said(&error)),
    };
    let email = |text: &str| field::<Email>("KEY", text);
    let attempt = |what| Limit::of(config, Named::Attempt(what));
    let limits = match kind {
        "login" => attempt(What::SignIn(&tenant, email(whom)?.as_str())),
        "forgot" => attempt(What::Forgot(&tenant, email(whom)?.as_str())),
        "resend" => attempt(What::Resend(&tenant, email(whom)?.as_str())),
        "password" => {
            let tenant = tenant.parse().map_err(|_| "KEY: there is no such tenant")?;
            let user = whom.parse().map_err(|_| "password: takes the id of a user")?;
            attempt(What::OwnPassword(tenant, user))
        }
        _ => return Err("KEY: write it as in the list of --help".into()),
    };
    Ok(limits)
}

fn wrong(error: &Error, tenant: &str) -> Failed {
    match error {
        Error::NoTenant => {
            format!("there is no open tenant {tenant:?}; `tenantry limits show --help` lists the keys").into()
        }
        error => said(error),
    }
}

fn tell(limit: &Limit, shown: Option<Shown>) {
    let line = |name: &str, text: String| println!("{name:<10} {text}");
    line("limit", limit.name.into());
    let Rate::Per(n, period) = limit.rate else { return line("rate", "off".into()) };
    let by = if limit.is_shared() { "all processes together" } else { "each process by itself" };
    line("rate", format!("{n} in {}, counted by {by}", humantime::format_duration(period)));
    let Some(Shown { remaining, wait, whole_in }) = shown else {
        return line("remaining", "only each process knows".into());
    };
    line("remaining", remaining.to_string());
    if !wait.is_zero() {
        line("next", format!("in {}", in_seconds(wait)));
    }
    line("whole", if whole_in.is_zero() { "now".into() } else { format!("in {}", in_seconds(whole_in)) });
}

fn in_seconds(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs() + 1)).to_string()
}

fn tell_json(key: &str, limit: &Limit, shown: Option<Shown>) {
    let mut line = json!({
        "key": key, "limit": limit.name,
        "counted_by": if limit.is_shared() { "all" } else { "process" },
    });
    if let Rate::Per(n, period) = limit.rate {
        line["quota"] = json!(n);
        line["period"] = json!(period.as_secs_f64());
    }
    if let Some(shown) = shown {
        line["remaining"] = json!(shown.remaining);
        line["wait"] = json!(shown.wait.as_secs_f64());
        line["whole_in"] = json!(shown.whole_in.as_secs_f64());
    }
    println!("{line}");
}
