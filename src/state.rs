//! What a process works with, made once from the settings.

use std::{ops::Deref, sync::Arc, time::Duration};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tenantry_accounts::{
    App, House, Settings,
    db::Db,
    encryption::Key,
    passwords::Hasher,
    primary::{NotPrimary, Primary},
    revocations::Revocations,
};
use tenantry_cache::Cache;
use tokio::time::timeout;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

use crate::{
    access_token::AccessTokens,
    api::{export::Exports, idempotency::InFlight},
    api_key::ApiKeys,
    config::{Config, ConfigError},
    encryption_keys,
    key_files::{KeyError, KeyFolder},
    keys::KeyPair,
    limits::{self, Limits},
};

/// Tag of the payloads in the cache; a new one when the shape of a user changes, so that old entries are misses.
const CACHE_SCHEMA: &str = "user-2";
/// How long the link in a verification mail works.
const VERIFICATION_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long the link works by which one chooses another password.
const RESET_TTL: Duration = Duration::from_secs(3600);
/// How long an invitation may be accepted.
const INVITATION_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a request waits for a database connection: it is to hear within a second that there is none.
const POOL_WAIT: Duration = Duration::from_millis(900);
/// How long a server may take to show that it is the primary.
const ADMITTED_WITHIN: Duration = Duration::from_secs(1);

/// What a process works with. Cheap to clone: each request has it.
#[derive(Clone)]
pub struct State(Arc<Parts>);

impl Deref for State {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The parts of a [`State`].
pub struct Parts {
    /// The house.
    pub app: App,
    /// Of its own: whether the database answers must not depend on how busy we are.
    pub(crate) probe: Pool,
    pub(crate) tokens: Arc<AccessTokens>,
    encryption_keys: Arc<KeyFolder<Key>>,
    /// Whether this process made the first of them.
    made_key: bool,
    pub(crate) api_keys: Arc<ApiKeys>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) exports: Arc<Exports>,
    pub(crate) webhook_secrets: tenantry_stripe::Secrets,
    pub(crate) stripe: Option<tenantry_stripe::Client>,
    /// Whether the process is about to stop: it says that it is not ready, and still takes requests.
    pub(crate) leaving: CancellationToken,
    pub(crate) config: Arc<Config>,
}

/// Why a process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong or missing.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no key to sign tokens or to encrypt with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A database URL cannot be read.
    #[error("DATABASE_URL cannot be read: {0}; it looks like postgres://user:password@host/database")]
    DatabaseUrl(#[source] tokio_postgres::Error),
    /// The Redis URL cannot be read.
    #[error("REDIS_URL: {0}")]
    RedisUrl(#[source] tenantry_cache::SetupError),
    /// The hasher did not come up.
    #[error(transparent)]
    Accounts(#[from] tenantry_accounts::Error),
}

impl State {
    /// Makes pools, cache, hasher and keys. Connects to nothing yet. Needs a runtime.
    ///
    /// # Errors
    /// When a setting is wrong; the message names it.
    pub fn new(config: Config) -> Result<Self, StartError> {
        signing_keys(&config).make_first()?;
        let app = app(&config)?;
        let encryption_keys = encryption_keys::folder(&config);
        let made_key = encryption_keys.make_first()?;
        encryption_keys::load(&encryption_keys, &app.encryption)?;
        Ok(Self(Arc::new(Parts {
            limits: Arc::new(Limits::new(&config, &app.cache)),
            probe: pool(config.database_url()?, 1, app.db.primary())?,
            app,
            tokens: Arc::new(tokens(&config)?),
            encryption_keys: Arc::new(encryption_keys),
            made_key,
            api_keys: Arc::new(ApiKeys::new(config.access_token_ttl)),
            in_flight: Arc::default(),
            exports: Arc::default(),
            webhook_secrets: webhook_secrets(&config),
            stripe: config.stripe()?,
            leaving: CancellationToken::new(),
            config: Arc::new(config),
        })))
    }

    /// Says which keys are missing that secrets in the database need. Where this process has just made a key beside such
    /// secrets, the folder is not the one that it should be: what was encrypted with the new key would be lost with it.
    ///
    /// # Errors
    /// In that case; the key is gone again.
    pub(crate) async fn check_encryption(&self) -> Result<(), ConfigError> {
        let missing = match encryption_keys::missing(&self.app).await {
            Ok(missing) => missing,
            // Not a reason to stay down.
            Err(error) => {
                tracing::warn!(
                    "which encryption keys are needed was not found out: {}",
                    crate::error::sources(&error)
                );
                return Ok(());
            }
        };
        for (key, secrets) in &missing {
            // Nor is this: everybody else signs in, and recovery codes need no key.
            tracing::error!(key.id = %key, secrets, "{secrets} second factors are encrypted with key {key}, which ENCRYPTION_KEYS_DIR does not hold");
        }
        if missing.is_empty() || !self.made_key {
            return Ok(());
        }
        self.encryption_keys.unmake_first();
        let folder = self.encryption_keys.path.display();
        Err(ConfigError(format!(
            "ENCRYPTION_KEYS_DIR: {folder} holds no key, and second factors are encrypted with another one: point it at the folder \
             of the running service. If those keys are lost for good, put a new one there (openssl rand -base64 32 >first.key)"
        )))
    }

    /// Writes down which API keys were used since the last time.
    pub async fn write_down_used_keys(&self) {
        self.api_keys.write_down(&self.app).await;
    }

    /// Keeps house while `work` runs: keys are read again each minute, idle clients and old attempts are forgotten.
    pub(crate) async fn keep_house(&self) {
        tokio::join!(self.keep_keys(), self.keep_minutes(), self.keep_limits());
    }

    async fn keep_keys(&self) {
        let mut tick = tokio::time::interval(self.tokens.reload_every());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tick.tick().await;
            self.tokens.reload();
            encryption_keys::reload(&self.encryption_keys, &self.app.encryption);
        }
    }

    async fn keep_limits(&self) {
        let mut tick = tokio::time::interval(limits::FORGET_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.limits.forget();
        }
    }

    async fn keep_minutes(&self) {
        let mut minute = tokio::time::interval(Duration::from_secs(60));
        minute.tick().await;
        loop {
            minute.tick().await;
            self.write_down_used_keys().await;
            let pool = self.app.db.pool().status();
            metrics::gauge!("tenantry_pool_connections", "state" => "idle").set(pool.available as f64);
            metrics::gauge!("tenantry_pool_connections", "state" => "open").set(pool.size as f64);
        }
    }
}

/// The house alone, for those who serve nobody: workers and commands. It has no keys to encrypt with.
///
/// # Errors
/// When a setting is wrong; the message names it.
pub(crate) fn app(config: &Config) -> Result<App, StartError> {
    let redis_url = config.redis_url.clone();
    if redis_url.is_none() {
        tracing::warn!("REDIS_URL is not set: this process caches on its own");
    }
    let cache = Cache::new(tenantry_cache::Settings {
        redis_url,
        ttl: config.cache_ttl,
        local_ttl: config.cache_local_ttl,
        local_entries: config.cache_local_entries,
        schema: CACHE_SCHEMA,
        epoch: config.database_epoch.map_or_else(|| "0".into(), |epoch| epoch.to_string()),
        ..tenantry_cache::Settings::default()
    })
    .map_err(StartError::RedisUrl)?;
    let settings = Settings {
        access_token_ttl: config.access_token_ttl,
        seats: config.plan_seats.0,
        session_ttl: config.refresh_token_ttl,
        verification_ttl: VERIFICATION_TTL,
        reset_ttl: RESET_TTL,
        invitation_ttl: INVITATION_TTL,
        require_verified_email: config.require_verified_email,
        product: config.product_name.clone(),
        tenant_grace: config.tenant_grace,
        audit_retention: config.audit_retention,
        billing: config.billing(),
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let primary = Primary::new(cache.clone(), config.database_epoch.is_some());
    let pool = pool(config.database_url()?, config.database_pool, &primary)?;
    Ok(App::new(House {
        db: Db::new(pool, primary),
        cache,
        passwords: Arc::new(Hasher::new(threads, config.password_hash)?),
        encryption: Arc::default(),
        revocations: Arc::new(Revocations::new(config.access_token_ttl)),
        entries: Arc::default(),
        lists: Arc::default(),
        settings: Arc::new(settings),
    }))
}

/// Where the keys are that sign access tokens.
fn webhook_secrets(config: &Config) -> tenantry_stripe::Secrets {
    let secrets = tenantry_stripe::Secrets::new(&config.stripe_webhook_secrets);
    if config.stripe_secret_key.is_some() && secrets.is_empty() {
        tracing::warn!(
            "STRIPE_WEBHOOK_SECRETS is not set: webhooks are refused, and plans follow within 15 minutes"
        );
    }
    secrets
}

fn signing_keys(config: &Config) -> KeyFolder<KeyPair> {
    KeyFolder::new(config.jwt_keys_dir.clone(), config.jwt_key_rest)
}

/// The keys of a service that runs already, or of this one.
///
/// # Errors
/// When there are none, or PUBLIC_URL cannot be told.
pub(crate) fn tokens(config: &Config) -> Result<AccessTokens, StartError> {
    Ok(AccessTokens::open(signing_keys(config), config.public_url()?, config.access_token_ttl)?)
}

/// How to connect to `url`.
pub(crate) fn connection(url: &str) -> Result<tokio_postgres::Config, StartError> {
    let mut config: tokio_postgres::Config = url.parse().map_err(StartError::DatabaseUrl)?;
    if config.get_application_name().is_none() {
        config.application_name("tenantry");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(2));
    }
    // A server that has silently gone is noticed within seconds.
    config
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(3))
        .keepalives_retries(3);
    config.tcp_user_timeout(Duration::from_secs(10));
    Ok(config)
}

/// A pool on `url` of at most `size` connections, each to a server that `primary` admits: no connection is used before its
/// server is known to be as new as the newest, and none that is older than what is known. Behind a pooler these are
/// connections to the pooler, which has to let go of an old primary by itself.
///
/// # Errors
/// When `url` cannot be read.
pub(crate) fn pool(url: &str, size: u16, primary: &Primary) -> Result<Pool, StartError> {
    // A connection is not asked whether it lives before each use: a statement that fails tells that as well.
    let manager = Manager::from_config(
        connection(url)?,
        NoTls,
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let timeouts =
        Timeouts { wait: Some(POOL_WAIT), create: Some(Duration::from_secs(2)), recycle: Some(POOL_WAIT) };
    let (admitting, standing) = (primary.clone(), primary.clone());
    let admit = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
        let primary = admitting.clone();
        Box::pin(async move {
            // The pool's own time-outs end before this.
            let admitted = timeout(ADMITTED_WITHIN, primary.admit(client)).await;
            let admitted = admitted.map_err(|_| HookError::message("the server does not answer"))?;
            admitted.map_err(|refused| match refused {
                NotPrimary::Database(error) => HookError::Backend(error),
                refused => HookError::message(refused.to_string()),
            })
        })
    });
    let stands = Hook::sync_fn(move |_, metrics| {
        standing.stands(metrics.created).map_err(|overtaken| HookError::message(overtaken.to_string()))
    });
    let pool = Pool::builder(manager).max_size(size.into()).runtime(Runtime::Tokio1).timeouts(timeouts);
    let pool = pool.post_create(admit).pre_recycle(stands).build();
    Ok(pool.map_err(|error| ConfigError(error.to_string()))?)
}
