//! `tenantry check`: one line per dependency and setting.

mod stripe;

use std::time::Duration;

use tokio::time::timeout;

use tenantry_accounts::{App, Error, primary::timeline, second_factor};

use super::Result;
use crate::{config::Config, encryption_keys, error::sources, migrate, server, state};

const PATIENCE: Duration = Duration::from_secs(3);

/// What is well, or what is wrong and what to do.
type Found = std::result::Result<String, String>;

pub(super) async fn run(config: Config) -> Result {
    let mut wrong = 0;
    let mut say = |name: &str, found: Found| match found {
        Ok(found) => println!("ok     {name:<12} {found}"),
        Err(problem) => {
            wrong += 1;
            println!("WRONG  {name:<12} {problem}");
        }
    };
    match config.database_url() {
        Err(error) => say("postgres", Err(error.to_string())),
        Ok(url) => match timeout(PATIENCE, migrate::connect(url)).await {
            Err(_) => {
                say("postgres", Err("no answer within 3 s: is the address of DATABASE_URL right?".into()))
            }
            Ok(Err(error)) => say("postgres", Err(format!("DATABASE_URL: {}", sources(&error)))),
            Ok(Ok(client)) => {
                let version = client.query_one("show server_version", &[]).await?;
                say("postgres", Ok(format!("version {}", version.try_get::<_, &str>(0)?)));
                say(
                    "role",
                    migrate::check_role(&client).await.map(|()| "walled by row-level security".into()),
                );
                let told = config.database_epoch.map(|epoch| format!("{epoch}, by DATABASE_EPOCH"));
                let timeline = timeline(&client, told.is_some()).await;
                say(
                    "timeline",
                    timeline.map(|asked| asked.or(told).unwrap_or_default()).map_err(|e| sources(&e)),
                );
                let pending = migrate::pending(url).await.map_err(|error| error.to_string());
                let pending = pending.and_then(|pending| match pending.len() {
                    0 => Ok(format!("up to date at {}", migrate::newest())),
                    n => Err(format!("{n} pending: run `tenantry migrate` with DATABASE_OWNER_URL")),
                });
                say("migrations", pending);
            }
        },
    }
    if config.database_url.is_some() {
        match state::app(&config) {
            Err(error) => say("settings", Err(error.to_string())),
            Ok(app) => {
                let keys = state::tokens(&config).map_err(|error| error.to_string());
                say("keys", keys.map(|_| format!("in {}", config.jwt_keys_dir.display())));
                say("encryption", encryption(&config, &app).await);
                let redis = match app.cache.has_redis() {
                    false => Ok("not configured: each process caches on its own".into()),
                    true => match timeout(PATIENCE, app.cache.ping()).await {
                        Ok(Ok(())) => Ok("answers".to_owned()),
                        Ok(Err(error)) => Err(format!(
                            "REDIS_URL: {}; the service works without, but slower",
                            sources(&error)
                        )),
                        Err(_) => {
                            Err("REDIS_URL: no answer within 3 s; the service works without, but slower"
                                .into())
                        }
                    },
                };
                say("redis", redis);
                match server::handlers(&app, &config) {
                    Err(error) => say("mail", Err(error.to_string())),
                    Ok(handlers) => match timeout(PATIENCE, handlers.mailer.check()).await {
                        Ok(found) => say("mail", found),
                        Err(_) => say("mail", Err("SMTP_URL: no answer within 3 s".into())),
                    },
                }
            }
        }
    }
    let tls = config.transport().map_err(|error| error.to_string());
    say(
        "tls",
        tls.map(|transport| match transport.tls {
            Some(_) => "certificate and key go together".into(),
            None => "not configured: plain HTTP, for a proxy that terminates TLS".into(),
        }),
    );
    say("traces", traces(&config).await);
    for (name, found) in stripe::look(&config).await {
        say(name, found);
    }
    if wrong > 0 { Err(format!("{wrong} wrong, see above").into()) } else { Ok(()) }
}

async fn traces(config: &Config) -> Found {
    let wrong = |problem: &str| {
        Err(format!("OTEL_EXPORTER_OTLP_ENDPOINT: {problem}; the service works without, and drops spans"))
    };
    match config.traces().map_err(|error| error.to_string())? {
        None => Ok("not configured: none are sent".into()),
        Some(settings) => match timeout(PATIENCE, tenantry_otel::check(&settings)).await {
            Ok(Ok(())) => Ok("the collector takes them".into()),
            Ok(Err(problem)) => wrong(&problem),
            Err(_) => wrong("no answer within 3 s"),
        },
    }
}

/// Whether every secret in the database can be read with the keys that there are, and how many each key still has.
async fn encryption(config: &Config, app: &App) -> Found {
    let folder = encryption_keys::folder(config);
    encryption_keys::load(&folder, &app.encryption).map_err(|error| error.to_string())?;
    let asked = timeout(PATIENCE, async {
        Ok((second_factor::keys_in_use(app).await?, encryption_keys::missing(app).await?))
    });
    let asked = asked.await.map_err(|_| "the database gave no answer within 3 s".to_owned())?;
    let (used, missing) = asked.map_err(|error: Error| sources(&error))?;
    let list = |keys: &[(String, i64)]| {
        keys.iter().map(|(key, n)| format!("{key} ({n} secrets)")).collect::<Vec<_>>().join(", ")
    };
    match (used.as_slice(), missing.as_slice()) {
        ([], _) => Ok(format!("keys in {}, nothing encrypted yet", folder.path.display())),
        (used, []) => Ok(format!("keys in {}, in use: {}", folder.path.display(), list(used))),
        (_, missing) => Err(format!(
            "ENCRYPTION_KEYS_DIR: {} lacks {}: bring the files back",
            folder.path.display(),
            list(missing)
        )),
    }
}
