//! `tenantry token`: an access token without a password, for operators and load tests.

use clap::Args;
use tenantry_accounts::{
    App, Error,
    fields::{Email, FromText},
    sessions::{self, Origin},
};

use super::Result;
use crate::{access_token::AccessTokens, config::Config, state};

#[derive(Args, Debug)]
pub(super) struct Token {
    /// The tenant's slug or id
    #[arg(long, value_name = "SLUG")]
    tenant: String,
    /// The user's address
    #[arg(long)]
    email: String,
}

impl Token {
    pub(super) async fn run(self, config: Config) -> Result {
        let (app, tokens) = (state::app(&config)?, state::tokens(&config)?);
        println!("{}", issue(&app, &tokens, &self.tenant, &self.email).await?);
        Ok(())
    }
}

/// A token of a session of its own, which stands in the user's list like any other.
pub(super) async fn issue(
    app: &App,
    tokens: &AccessTokens,
    tenant: &str,
    email: &str,
) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let email = Email::from_text(email).map_err(|_| format!("--email: {email:?} is no e-mail address"))?;
    let origin = Origin { user_agent: "tenantry token".into(), address: None };
    let session = sessions::impersonate(app, tenant, &email, origin).await.map_err(|error| match error {
        Error::NoUser => {
            format!("tenant {tenant:?} has no active user {:?} with a password", email.as_str())
        }
        error => crate::error::sources(&error),
    })?;
    Ok(tokens.issue(&session)?)
}
