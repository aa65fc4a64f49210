//! What row-level security costs: one row by its primary key, with and without it, on prepared statements.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use rand::Rng;
use tenantry_accounts::{TenantId, db};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::{Result, figures::Figures, servers::Servers};

const SECTION: &str = "row-level security: a user by primary key";
/// Those of a look-up.
const COLUMNS: &str = "id, tenant_id, email, name, role, is_active, email_verified, last_login_at, created_at, updated_at, \
                       version, deleted_at is not null as deleted";

#[derive(Clone, Copy, Debug)]
enum Way {
    /// The owner of the table, whom no policy holds.
    Owner,
    OwnerInTransaction,
    /// As look-ups do it: one statement, in which the function takes on role and tenant.
    Function,
    /// As changes do it: BEGIN, role and tenant, the statement, COMMIT.
    Transaction,
}

impl Way {
    const ALL: [Self; 4] = [Self::Owner, Self::OwnerInTransaction, Self::Function, Self::Transaction];

    fn name(self) -> &'static str {
        match self {
            Self::Owner => "select by the owner, no policy",
            Self::OwnerInTransaction => "the same between BEGIN and COMMIT",
            Self::Function => "user_by_id, walled",
            Self::Transaction => "a transaction of the tenant, walled",
        }
    }

    fn is_owner(self) -> bool {
        matches!(self, Self::Owner | Self::OwnerInTransaction)
    }
}

/// `people`: who is asked for, by tenant and id. Takes turns, so that a machine that is slower for a while is so for all.
pub(crate) async fn measure(
    figures: &mut Figures,
    servers: &Servers,
    [owner, app]: [&str; 2],
    people: &Arc<Vec<(Uuid, Uuid)>>,
    time: Duration,
) -> Result<()> {
    for connections in [1, 4] {
        let pools = [pool(owner, connections)?, pool(app, connections)?];
        let mut plain = f64::NAN;
        for way in Way::ALL {
            let pool = &pools[usize::from(!way.is_owner())];
            run(way, pool, connections, people, Duration::from_millis(300)).await?;
            let [_, before] = servers.cpu()?;
            let (done, took) = run(way, pool, connections, people, time).await?;
            let [_, after] = servers.cpu()?;
            let each = took.as_secs_f64() * connections as f64 / done as f64;
            let name = format!("{}, {connections} at once", way.name());
            figures.add(SECTION, &name, "µs", each * 1e6);
            figures.add(
                SECTION,
                format!("{name}: CPU of PostgreSQL"),
                "µs",
                (after - before) / done as f64 * 1e6,
            );
            if let Way::Owner = way {
                plain = each;
            } else {
                figures.add(SECTION, format!("{name}: times the owner's"), "", each / plain);
            }
        }
    }
    Ok(())
}

fn pool(url: &str, connections: usize) -> Result<Pool> {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(url.parse()?, NoTls, config);
    Ok(Pool::builder(manager).max_size(connections).build()?)
}

/// How many rows were read, by all connections together, and in what time.
async fn run(
    way: Way,
    pool: &Pool,
    connections: usize,
    people: &Arc<Vec<(Uuid, Uuid)>>,
    time: Duration,
) -> Result<(u64, Duration)> {
    let (start, mut readers) = (Instant::now(), JoinSet::new());
    for _ in 0..connections {
        let (mut client, people) = (pool.get().await?, people.clone());
        readers.spawn(async move {
            let mut done = 0;
            while start.elapsed() < time {
                let (tenant, id) = people[rand::rng().random_range(0..people.len())];
                read(way, &mut client, tenant, id).await?;
                done += 1;
            }
            Ok::<u64, Box<dyn std::error::Error + Send + Sync>>(done)
        });
    }
    let mut done = 0;
    while let Some(ended) = readers.join_next().await {
        done += ended??;
    }
    Ok((done, start.elapsed()))
}

async fn read(way: Way, client: &mut deadpool_postgres::Client, tenant: Uuid, id: Uuid) -> Result<()> {
    let table = format!("select {COLUMNS} from tenantry.users where tenant_id = $1 and id = $2");
    let row = match way {
        Way::Owner => {
            let statement = client.prepare_cached(&table).await?;
            client.query_one(&statement, &[&tenant, &id]).await?
        }
        Way::OwnerInTransaction => {
            let tx = client.transaction().await?;
            let statement = tx.prepare_cached(&table).await?;
            let row = tx.query_one(&statement, &[&tenant, &id]).await?;
            tx.commit().await?;
            row
        }
        Way::Function => {
            let function = format!("select {COLUMNS} from tenantry.user_by_id($1, $2)");
            let statement = client.prepare_cached(&function).await?;
            client.query_one(&statement, &[&tenant, &id]).await?
        }
        Way::Transaction => {
            let tx = db::as_tenant(client, TenantId(tenant)).await?;
            let statement = tx.prepare_cached(&table).await?;
            let row = tx.query_one(&statement, &[&tenant, &id]).await?;
            tx.commit().await?;
            row
        }
    };
    // The right row, or it was no read.
    if row.try_get::<_, Uuid>("id")? == id { Ok(()) } else { Err("another row".into()) }
}
