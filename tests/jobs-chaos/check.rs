//! What must be true in the end, asked of the database.

use tokio_postgres::Client;

use crate::{Result, cluster::Cluster};

pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) holds: bool,
    pub(crate) found: String,
}

pub(crate) async fn check(cluster: &Cluster) -> Result<Vec<Check>> {
    let database = cluster.database().await?;
    let count = async |sql: &str| -> Result<i64> { Ok(database.query_one(sql, &[]).await?.try_get(0)?) };
    let asked = count("select count(*) from chaos.asked").await?;
    let none =
        |name, found: i64, of: String| Check { name, holds: found == 0, found: format!("{found} of {of}") };
    let mut checks = vec![
        none(
            "no job is lost",
            count("select count(*) from chaos.asked a where not exists (select from tenantry.jobs j where j.id = a.job)")
                .await?,
            format!("{asked} are gone"),
        ),
        none(
            "every job comes to an end",
            count("select count(*) from tenantry.jobs where state not in ('done', 'dead')").await?,
            format!("{asked} are open"),
        ),
        none(
            "every job that can be done is",
            count(
                "select count(*) from chaos.asked a join tenantry.jobs j on j.id = a.job
                 where a.what not in ('abort', 'unreadable', 'refuse') and j.state <> 'done'",
            )
            .await?,
            format!("{asked} are not"),
        ),
        none(
            "a job that is done has its effect",
            count(
                "select count(*) from tenantry.jobs j where j.state = 'done'
                 and not exists (select from chaos.effects e where e.job = j.id)",
            )
            .await?,
            format!("{asked} have none"),
        ),
        none(
            "no job has two effects",
            count("select count(*) from (select from chaos.effects group by job having count(*) > 1) twice").await?,
            format!("{asked} have"),
        ),
        none(
            "what cannot be done has none",
            count(
                "select count(*) from chaos.asked a join chaos.effects e on e.job = a.job
                 where a.what in ('abort', 'unreadable', 'refuse')",
            )
            .await?,
            "those have".to_owned(),
        ),
    ];
    checks.push(parked(&database).await?);
    checks.push(rerun(&database).await?);
    checks.push(waits(&database, "probe", "a quiet tenant's mails wait").await?);
    checks.push(waits(&database, "at once", "those that fall due in one second wait").await?);
    checks.push(faults(&database).await?);
    Ok(checks)
}

async fn parked(database: &Client) -> Result<Check> {
    let sql = "
        select count(*) filter (where a.what = 'abort' and j.state = 'dead' and j.lone_crashes = 3
            and j.last_error like 'parked: %'),
          count(*) filter (where a.what = 'abort'),
          count(*) filter (where a.what = 'unreadable' and j.state = 'dead' and j.last_error like 'payload %'),
          count(*) filter (where a.what = 'unreadable'),
          count(*) filter (where a.what not in ('abort', 'unreadable') and j.crashes > 0)
        from chaos.asked a join tenantry.jobs j on j.id = a.job";
    let row = database.query_one(sql, &[]).await?;
    let n = |column| row.try_get::<_, i64>(column);
    Ok(Check {
        name: "poison and what cannot be read are dead letters, with the reason",
        holds: n(0)? == n(1)? && n(2)? == n(3)?,
        found: format!("{} of {} and {} of {}; {} innocents saw a crash", n(0)?, n(1)?, n(2)?, n(3)?, n(4)?),
    })
}

/// From the kill of a worker to the next start of what it had running, where PostgreSQL was there all the time.
async fn rerun(database: &Client) -> Result<Check> {
    let sql = "
        with attempts as (
          select j.id, (h.entry ->> 'started_at')::timestamptz as started, (h.entry ->> 'ended_at')::timestamptz as found,
            h.entry ->> 'outcome' as outcome, h.entry ->> 'worker' as worker
          from tenantry.jobs j, lateral jsonb_array_elements(j.history) as h (entry)
          union all
          select j.id, j.started_at, null, j.state, j.leased_by from tenantry.jobs j where j.state = 'done'
        ), followed as (
          select a.*, lead(a.started) over (partition by a.id order by a.started) as again from attempts a
        ), crashed as (
          select f.*, k.at as killed from followed f join chaos.kills k on substring(f.worker from '-([0-9]+)-[0-9a-f]+$') = k.pid::text
          where f.outcome = 'crashed'
        )
        select count(*), coalesce(percentile_cont(array[0.5, 0.99, 1.0]) within group (
            order by extract(epoch from again - killed)), '{0,0,0}'),
          coalesce(max(extract(epoch from found - killed)), 0)::float8
        from crashed c where again is not null and not exists (
          select from chaos.outages o where o.began < c.again and o.ended + interval '3 s' > c.killed)";
    let row = database.query_one(sql, &[]).await?;
    let (count, again, found): (i64, Vec<f64>, f64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(Check {
        // Suspects queue up behind each other while workers go on dying, so of their start the median is judged.
        name: "jobs of a killed worker are found, and half of them run again, within 15 s",
        holds: count > 0 && found <= 15.0 && again[0] <= 15.0,
        found: format!(
            "{count} did, after p50 {:.1} s, p99 {:.1} s, at most {:.1} s (found at most {found:.1} s after the kill)",
            again[0], again[1], again[2]
        ),
    })
}

/// How long it took from due to the effect. Reported: on a busy machine no time is too long for a check.
async fn waits(database: &Client, what: &str, name: &'static str) -> Result<Check> {
    let sql = "
        select count(*), coalesce(percentile_cont(array[0.5, 0.99, 1.0]) within group (
            order by extract(epoch from e.at - greatest(j.created_at, j.run_at))), '{0,0,0}')
        from chaos.asked a join tenantry.jobs j on j.id = a.job join chaos.effects e on e.job = a.job
        where a.what = $1";
    let row = database.query_one(sql, &[&what]).await?;
    let (count, waits): (i64, Vec<f64>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Check {
        name,
        holds: count > 0,
        found: format!(
            "{count} did: p50 {:.3} s, p99 {:.3} s, at most {:.3} s",
            waits[0], waits[1], waits[2]
        ),
    })
}

/// A run in which nothing was broken shows nothing.
async fn faults(database: &Client) -> Result<Check> {
    let sql = "select (select count(*) from chaos.kills), (select count(*) from chaos.outages),
      (select count(*) from tenantry.jobs, lateral jsonb_array_elements(history) as h (entry)
       where entry ->> 'outcome' = 'crashed')";
    let row = database.query_one(sql, &[]).await?;
    let (kills, outages, crashed): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(Check {
        name: "there was something to survive",
        holds: kills > 0 && outages > 0 && crashed > 0,
        found: format!(
            "{kills} kills, {outages} crashes of PostgreSQL, {crashed} attempts that were cut off"
        ),
    })
}
