//! `tenantry users export`.

use std::io::{Write, stdout};

use clap::Args;
use tenantry_accounts::{
    App,
    users::{self, Filter, Role},
};

use super::{OfTenant, RoleName, tenants};
use crate::{
    api::export::Format,
    commands::{Result, people::said},
};

#[derive(Args, Debug)]
pub(super) struct Export {
    #[command(flatten)]
    tenant: OfTenant,
    /// How they are written
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// Part of the name or the address, in any case
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Of this role only
    #[arg(long, value_enum)]
    role: Option<RoleName>,
}

impl Export {
    /// Writes page after page to standard output.
    pub(super) async fn run(self, app: &App) -> Result {
        let (_, actor) = tenants::open(app, &self.tenant.tenant).await?;
        let filter = Filter { search: self.search, role: self.role.map(Role::from), ..Filter::default() };
        let name = self.format.name();
        let mut export = users::export(app, actor, filter, name).await.map_err(|error| said(&error))?;
        let mut is_first = true;
        while let Some(users) = export.page().await.map_err(|error| said(&error))? {
            stdout().lock().write_all(&self.format.write(&users, is_first))?;
            is_first = false;
        }
        Ok(stdout().lock().flush()?)
    }
}
