//! `tenantry seed`: tenants and users in bulk, by COPY.

use clap::Args;
use futures_util::SinkExt;
use indicatif::{ProgressBar, ProgressStyle};
use tenantry_accounts::{
    App, TenantId, UserId, db,
    fields::{FromText, NewPassword},
};
use tokio_postgres::CopyInSink;

use super::Result;
use crate::{config::Config, state};

/// All seeded users have this one: they are for load tests, and hashing a million takes hours.
pub(super) const PASSWORD: &str = "Tenantry-Demo-1";
/// Users copied in one transaction, and so within one tenant.
const BATCH: u64 = 10_000;

#[derive(Args, Debug)]
pub(super) struct Seed {
    /// How many tenants to make
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    tenants: u64,
    /// How many users to make, over all these tenants
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    users: u64,
}

impl Seed {
    pub(super) async fn run(self, config: Config) -> Result {
        if self.users < self.tenants {
            return Err("--users: each tenant needs at least one user, its administrator".into());
        }
        let app = state::app(&config)?;
        let run = uuid::Uuid::now_v7().simple().to_string()[..12].to_owned();
        let hash = hash(&app).await?;
        let progress = ProgressBar::new(self.users).with_style(ProgressStyle::with_template(
            "{bar:40} {human_pos}/{human_len} users, {per_sec}, {eta} left",
        )?);
        for tenant in 0..self.tenants {
            let users = self.users / self.tenants + u64::from(tenant < self.users % self.tenants);
            let slug = format!("seed-{run}-{tenant}");
            fill(&app, &slug, &format!("Seeded {tenant}"), users, &hash, |made| progress.inc(made)).await?;
        }
        progress.finish();
        println!("made {} users in {} tenants, seed-{run}-0 and on", self.users, self.tenants);
        println!(
            "the first of each is admin@example.org, the others user1@example.org and on; password {PASSWORD}"
        );
        Ok(())
    }
}

pub(super) async fn hash(app: &App) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let password = NewPassword::from_text(PASSWORD).map_err(|_| "the seed's password breaks our own rule")?;
    Ok(app.passwords.hash(password).await?)
}

/// Makes an enterprise tenant with an administrator and `users - 1` users, verified and ready to sign in.
pub(super) async fn fill(
    app: &App,
    slug: &str,
    name: &str,
    users: u64,
    hash: &str,
    progress: impl Fn(u64),
) -> std::result::Result<TenantId, Box<dyn std::error::Error>> {
    let tenant = TenantId::generate();
    let mut client = app.db.client().await?;
    let mut made = 0;
    while made < users {
        let batch = BATCH.min(users - made);
        let tx = db::as_system(&mut client).await?;
        tx.batch_execute("set local statement_timeout = '60s'").await?;
        if made == 0 {
            tx.execute(
                "insert into tenantry.tenants (id, name, slug, plan) values ($1, $2, $3, 'enterprise')",
                &[&tenant.0, &name, &slug],
            )
            .await?;
            tx.execute("insert into tenantry.tenant_seats (tenant_id) values ($1)", &[&tenant.0]).await?;
        }
        tx.execute(
            "update tenantry.tenant_seats set used = used + $2 where tenant_id = $1",
            &[&tenant.0, &i32::try_from(batch)?],
        )
        .await?;
        let ids: Vec<_> = (0..batch).map(|_| UserId::generate()).collect();
        // Row-level security does not take COPY FROM for such roles; a temporary table in between does.
        tx.batch_execute(
            "create temp table if not exists seed (id uuid, email text, name text, role text) on commit drop",
        )
        .await?;
        let sink: CopyInSink<bytes::Bytes> =
            tx.copy_in("copy seed (id, email, name, role) from stdin").await?;
        let mut rows = String::new();
        for (n, id) in (made..).zip(&ids) {
            let line = match n {
                0 => format!("{id}\tadmin@example.org\tAda Admin\tadmin\n"),
                n => format!("{id}\tuser{n}@example.org\tUser {n}\tuser\n"),
            };
            rows.push_str(&line);
        }
        let mut sink = std::pin::pin!(sink);
        sink.send(bytes::Bytes::from(rows)).await?;
        sink.as_mut().finish().await?;
        tx.execute(
            "insert into tenantry.users (tenant_id, id, email, name, role, email_verified)
             select $1, id, email, name, role, true from seed",
            &[&tenant.0],
        )
        .await?;
        tx.execute(
            "insert into tenantry.credentials (tenant_id, user_id, password_hash) select $1, id, $2 from seed",
            &[&tenant.0, &hash],
        )
        .await?;
        tx.commit().await?;
        made += batch;
        progress(batch);
    }
    Ok(tenant)
}
