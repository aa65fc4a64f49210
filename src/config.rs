//! Every setting once: flag, variable, default and help are this struct.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use tenantry_accounts::{billing::Price, feed::LONGEST_TTL, passwords::Cost, tenants::Plan};
use tenantry_trace::Sampler;
use uuid::Uuid;

use crate::{
    limits::{ByPlan, Rate},
    transport::{self, Tls, TlsError},
};

/// Where keys are kept when nobody says otherwise.
pub(crate) const DEFAULT_KEYS_DIR: &str = ".tenantry/keys";

/// Settings of the service. A bad value stops the start and names the variable.
#[derive(Args, Debug, Clone)]
pub struct Config {
    /// PostgreSQL, as the application: neither a superuser nor the owner of the tables
    #[arg(long, env = "DATABASE_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,

    /// PostgreSQL as the owner of the schema, for `migrate`; default: DATABASE_URL
    #[arg(long, env = "DATABASE_OWNER_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub database_owner_url: Option<String>,

    /// PostgreSQL not through a pooler, for workers; default: DATABASE_URL
    #[arg(long, env = "DATABASE_DIRECT_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub database_direct_url: Option<String>,

    /// Connections to PostgreSQL of a process, at most
    #[arg(long, env = "DATABASE_POOL", global = true, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    pub database_pool: u16,

    /// Number of the database's history, where its servers do not tell their timeline; raise it after each fail-over
    /// and restore
    #[arg(long, env = "DATABASE_EPOCH", global = true, value_name = "N")]
    pub database_epoch: Option<Epoch>,

    /// Redis: redis:// or rediss:// (TLS); several with commas: a cluster. Without it each process caches on its own
    #[arg(long, env = "REDIS_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<String>,

    /// Where the API listens
    #[arg(long, env = "LISTEN", global = true, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub listen: SocketAddr,

    /// Certificate (PEM, with those that vouch for it behind it) to serve TLS with; none: plain HTTP. Read again as it changes
    #[arg(long, env = "TLS_CERTIFICATE", global = true, value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,

    /// Key (PEM) of TLS_CERTIFICATE
    #[arg(long, env = "TLS_KEY", global = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Connections to the API of a process, at most
    #[arg(long, env = "MAX_CONNECTIONS", global = true, default_value_t = 10_000, value_name = "N", value_parser = at_least_one)]
    pub max_connections: usize,

    /// And of one client address (of IPv6 a /64); proxies of TRUSTED_PROXIES are not counted
    #[arg(long, env = "MAX_CONNECTIONS_PER_ADDRESS", global = true, default_value_t = 1_000, value_name = "N", value_parser = at_least_one)]
    pub max_connections_per_address: usize,

    /// How long the header of a request may take to come, and the handshake of TLS
    #[arg(long, env = "HEADER_TIMEOUT", global = true, default_value = "10s", value_parser = period, value_name = "TIME")]
    pub header_timeout: Duration,

    /// How long a connection stays open on which nothing is asked; longer than that of a proxy in front
    #[arg(long, env = "KEEP_ALIVE", global = true, default_value = "75s", value_parser = period, value_name = "TIME")]
    pub keep_alive: Duration,

    /// Where metrics listen; none: not at all
    #[arg(long, env = "METRICS_LISTEN", global = true, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,

    /// How clients reach this service; default: http://LISTEN, or https://LISTEN
    #[arg(long, env = "PUBLIC_URL", global = true, value_name = "URL")]
    pub public_url: Option<WebUrl>,

    /// Where links in mails lead; default: the pages of PUBLIC_URL
    #[arg(long, env = "APP_URL", global = true, value_name = "URL")]
    pub app_url: Option<WebUrl>,

    /// Origins that browsers may call from, separated by commas
    #[arg(long, env = "ALLOWED_ORIGINS", global = true, value_delimiter = ',', value_name = "ORIGINS")]
    pub allowed_origins: Vec<Origin>,

    /// Addresses or networks of proxies whose X-Forwarded-For counts, separated by commas
    #[arg(long, env = "TRUSTED_PROXIES", global = true, value_delimiter = ',', value_parser = network, value_name = "NETS")]
    pub trusted_proxies: Vec<IpNet>,

    /// Folder of the Ed25519 keys (PEM) that sign access tokens; made with a first key when it is empty
    #[arg(long, env = "JWT_KEYS_DIR", global = true, default_value = DEFAULT_KEYS_DIR, value_name = "DIR")]
    pub jwt_keys_dir: PathBuf,

    /// Folder of the keys (*.key) that encrypt secrets in the database; made with a first key when it holds none. Default:
    /// JWT_KEYS_DIR
    #[arg(long, env = "ENCRYPTION_KEYS_DIR", global = true, value_name = "DIR")]
    pub encryption_keys_dir: Option<PathBuf>,

    /// How long a new key of these folders is only read with before it signs or encrypts, so that everybody knows it by then
    #[arg(long, env = "JWT_KEY_REST", global = true, default_value = "5m", value_parser = period, value_name = "TIME")]
    pub jwt_key_rest: Duration,

    /// How long an access token lives
    #[arg(long, env = "ACCESS_TOKEN_TTL", global = true, default_value = "10m", value_parser = lifetime, value_name = "TIME")]
    pub access_token_ttl: Duration,

    /// How long a session lives, at most
    #[arg(long, env = "REFRESH_TOKEN_TTL", global = true, default_value = "30d", value_parser = lifetime, value_name = "TIME")]
    pub refresh_token_ttl: Duration,

    /// How far a process may be behind with what was revoked elsewhere before it refuses signed-in requests with 503
    #[arg(long, env = "REVOCATION_MAX_LAG", global = true, default_value = "30s", value_parser = period, value_name = "TIME")]
    pub revocation_max_lag: Duration,

    /// Whether only people with a verified address may sign in
    #[arg(long, env = "REQUIRE_VERIFIED_EMAIL", global = true, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub require_verified_email: bool,

    /// What hashing a password costs: Argon2id with m KiB, t passes, p lanes. May be raised at any time: passwords are hashed
    /// anew as their owners sign in
    #[arg(
        long,
        env = "PASSWORD_HASH",
        global = true,
        default_value = "m=19456,t=2,p=1",
        value_name = "COST"
    )]
    pub password_hash: Cost,

    /// Mail server: smtp://[user:password@]host[:port][?tls=required] or smtps://...; for workers
    #[arg(long, env = "SMTP_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub smtp_url: Option<String>,

    /// Where mail is caught instead of being sent; `dev` sets it when SMTP_URL is not set.
    #[arg(skip)]
    pub mail_dir: Option<PathBuf>,

    /// Sender of all mail
    #[arg(
        long,
        env = "MAIL_FROM",
        global = true,
        default_value = "Tenantry <no-reply@localhost.localdomain>",
        value_name = "MAILBOX"
    )]
    pub mail_from: String,

    /// Name of the product that mails are signed with
    #[arg(long, env = "PRODUCT_NAME", global = true, default_value = "", value_name = "NAME")]
    pub product_name: String,

    /// Folder of own templates for mails: KIND.txt and KIND.html take the place of those built in
    #[arg(long, env = "MAIL_TEMPLATES_DIR", global = true, value_name = "DIR")]
    pub mail_templates_dir: Option<PathBuf>,

    /// Secret key of the Stripe account; none: no billing, and for `dev` a fake Stripe
    #[arg(long, env = "STRIPE_SECRET_KEY", global = true, hide_env_values = true, value_name = "KEY")]
    pub stripe_secret_key: Option<String>,

    /// Signing secrets of the webhook endpoint, separated by commas; two while one takes the other's place
    #[arg(
        long,
        env = "STRIPE_WEBHOOK_SECRETS",
        global = true,
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "SECRETS"
    )]
    pub stripe_webhook_secrets: Vec<String>,

    /// Where Stripe is
    #[arg(
        long,
        env = "STRIPE_API_BASE",
        global = true,
        default_value = "https://api.stripe.com",
        value_name = "URL"
    )]
    pub stripe_api_base: WebUrl,

    /// What prices give: PRICE=PLAN separated by commas; PRICE=PLAN/seat where each used seat is paid for
    #[arg(long, env = "STRIPE_PRICES", global = true, default_value = "", value_name = "PRICES")]
    pub stripe_prices: StripePrices,

    /// Requests a second to Stripe of one process, at most; Stripe's own limit is 100, or 25 for test accounts
    #[arg(long, env = "STRIPE_RATE_LIMIT", global = true, default_value = "20", value_name = "N")]
    pub stripe_rate_limit: NonZeroU32,

    /// How long a tenant keeps its plan while a renewal is not paid
    #[arg(long, env = "STRIPE_GRACE", global = true, default_value = "7d", value_parser = period, value_name = "TIME")]
    pub stripe_grace: Duration,

    /// After what time a subscription is fetched once more that had only just changed
    #[arg(long, env = "STRIPE_SETTLE_DELAY", global = true, default_value = "5s", value_parser = period, value_name = "TIME")]
    pub stripe_settle_delay: Duration,

    /// How long Redis keeps a user; a day at most
    #[arg(long, env = "CACHE_TTL", global = true, default_value = "900s", value_parser = cache_ttl, value_name = "TIME")]
    pub cache_ttl: Duration,

    /// How long a process keeps a user without asking: the most another process may be behind
    #[arg(long, env = "CACHE_LOCAL_TTL", global = true, default_value = "1s", value_parser = period, value_name = "TIME")]
    pub cache_local_ttl: Duration,

    /// How many users a process keeps
    #[arg(long, env = "CACHE_LOCAL_ENTRIES", global = true, default_value_t = 100_000, value_name = "N", value_parser = at_least_one)]
    pub cache_local_entries: usize,

    /// Requests without a valid credential that one client address may make, as N/PERIOD, or off
    #[arg(long, env = "RATE_LIMIT_IP", global = true, default_value = "1000/15m", value_name = "RATE")]
    pub rate_limit_ip: Rate,

    /// Requests of one user or API key, counted by each process; an API key has its own limit, too
    #[arg(long, env = "RATE_LIMIT_CALLER", global = true, default_value = "3000/1m", value_name = "RATE")]
    pub rate_limit_caller: Rate,

    /// Requests of all users and API keys of a tenant on the plan basic, on all processes together
    #[arg(
        long,
        env = "RATE_LIMIT_TENANT_BASIC",
        global = true,
        default_value = "12000/1m",
        value_name = "RATE"
    )]
    pub rate_limit_tenant_basic: Rate,

    /// The same on the plan pro
    #[arg(
        long,
        env = "RATE_LIMIT_TENANT_PRO",
        global = true,
        default_value = "60000/1m",
        value_name = "RATE"
    )]
    pub rate_limit_tenant_pro: Rate,

    /// The same on the plan enterprise
    #[arg(
        long,
        env = "RATE_LIMIT_TENANT_ENTERPRISE",
        global = true,
        default_value = "600000/1m",
        value_name = "RATE"
    )]
    pub rate_limit_tenant_enterprise: Rate,

    /// Wrong passwords, and mails asked for, by tenant and address, on all processes together, as N/PERIOD, or off
    #[arg(long, env = "RATE_LIMIT_LOGIN", global = true, default_value = "10/10m", value_name = "RATE")]
    pub rate_limit_login: Rate,

    /// Sign-ups from one client address, on all processes together
    #[arg(long, env = "RATE_LIMIT_REGISTER", global = true, default_value = "60/1h", value_name = "RATE")]
    pub rate_limit_register: Rate,

    /// Processes that serve the API: while Redis does not answer, each lets in that part of what all may let in together
    #[arg(long, env = "API_REPLICAS", global = true, default_value = "2", value_name = "N")]
    pub api_replicas: NonZeroU32,

    /// Seats by plan; a plan that is not named has no limit
    #[arg(long, env = "PLAN_SEATS", global = true, default_value = "basic=10,pro=100", value_name = "PLANS")]
    pub plan_seats: PlanSeats,

    /// How large the body of an import may be; MiB and GiB are understood
    #[arg(long, env = "IMPORT_MAX_BYTES", global = true, default_value = "256MiB", value_parser = bytes, value_name = "BYTES")]
    pub import_max_bytes: u64,

    /// How long a closed tenant may be opened again before it is purged
    #[arg(long, env = "TENANT_GRACE", global = true, default_value = "30d", value_parser = grace, value_name = "TIME")]
    pub tenant_grace: Duration,

    /// How long audit events are kept, at least; they go by the month
    #[arg(long, env = "AUDIT_RETENTION", global = true, default_value = "400d", value_parser = retention, value_name = "TIME")]
    pub audit_retention: Duration,

    /// Whether Swagger UI is served at /docs
    #[arg(long, env = "DOCS", global = true, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub docs: bool,

    /// Form of the log lines
    #[arg(long, env = "LOG_FORMAT", global = true, value_enum, default_value_t = LogFormat::Json, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// What is logged, e.g. info or warn,tenantry=debug
    #[arg(long, env = "RUST_LOG", global = true, default_value = "info", value_name = "FILTER")]
    pub rust_log: String,

    /// Collector of OpenTelemetry that traces are sent to, by http/protobuf, such as http://127.0.0.1:4318; none: nothing is sent
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otel_exporter_otlp_endpoint: Option<WebUrl>,

    /// Headers for the collector: NAME=VALUE separated by commas, values percent-encoded
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_HEADERS",
        global = true,
        hide_env_values = true,
        value_name = "HEADERS"
    )]
    pub otel_exporter_otlp_headers: Option<String>,

    /// Milliseconds that the collector may take for a batch, all attempts together
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", global = true, default_value_t = 10_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub otel_exporter_otlp_timeout: u64,

    /// What the service is called in traces
    #[arg(long, env = "OTEL_SERVICE_NAME", global = true, default_value = "tenantry", value_name = "NAME")]
    pub otel_service_name: String,

    /// Which traces are sent; parentbased_* believe callers who say that theirs is recorded
    #[arg(long, env = "OTEL_TRACES_SAMPLER", global = true, default_value = "parentbased_traceidratio", value_name = "SAMPLER", value_parser = clap::builder::PossibleValuesParser::new(Sampler::NAMES))]
    pub otel_traces_sampler: String,

    /// For the samplers traceidratio: the part of the traces, from 0 to 1
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", global = true, default_value = "1", value_parser = part, value_name = "PART")]
    pub otel_traces_sampler_arg: f64,

    /// Jobs a worker process runs at once
    #[arg(long, env = "WORKER_CONCURRENCY", global = true, default_value_t = 16, value_name = "N", value_parser = at_least_one)]
    pub worker_concurrency: usize,

    /// How long a process still takes requests after SIGTERM, while it says that it is not ready: as long as a balancer needs to notice
    #[arg(long, env = "SHUTDOWN_DELAY", global = true, default_value = "2s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub shutdown_delay: Duration,

    /// How long a stopping process finishes what it has begun
    #[arg(long, env = "SHUTDOWN_GRACE", global = true, default_value = "25s", value_parser = period, value_name = "TIME")]
    pub shutdown_grace: Duration,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    Pretty,
}

/// What is wrong with the settings as a whole, in words for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Config {
    /// The application's database.
    ///
    /// # Errors
    /// When DATABASE_URL is not set.
    pub fn database_url(&self) -> Result<&str, ConfigError> {
        self.database_url.as_deref().ok_or_else(|| {
            ConfigError("DATABASE_URL is not set. `tenantry dev` brings its own PostgreSQL; every other command needs one".into())
        })
    }

    /// The database as `migrate` needs it.
    ///
    /// # Errors
    /// When neither DATABASE_OWNER_URL nor DATABASE_URL is set.
    pub fn owner_url(&self) -> Result<&str, ConfigError> {
        self.database_owner_url.as_deref().map_or_else(|| self.database_url(), Ok)
    }

    /// The database as workers need it.
    ///
    /// # Errors
    /// When neither DATABASE_DIRECT_URL nor DATABASE_URL is set.
    pub fn direct_url(&self) -> Result<&str, ConfigError> {
        self.database_direct_url.as_deref().map_or_else(|| self.database_url(), Ok)
    }

    /// What tenants may ask for, by plan.
    pub(crate) fn tenant_rates(&self) -> ByPlan {
        ByPlan {
            basic: self.rate_limit_tenant_basic,
            pro: self.rate_limit_tenant_pro,
            enterprise: self.rate_limit_tenant_enterprise,
        }
    }

    /// Where the keys are that encrypt secrets in the database.
    pub fn encryption_keys_dir(&self) -> &Path {
        self.encryption_keys_dir.as_deref().unwrap_or(&self.jwt_keys_dir)
    }

    /// Who may connect, and for how long.
    ///
    /// # Errors
    /// When there is to be TLS and its files do not do.
    pub fn transport(&self) -> Result<transport::Settings, TlsError> {
        let tls = match (&self.tls_certificate, &self.tls_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(Tls::read(certificate, key)?),
            _ => return Err(TlsError::Half),
        };
        Ok(transport::Settings {
            header_timeout: self.header_timeout,
            keep_alive: self.keep_alive,
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            proxies: self.trusted_proxies.clone(),
            tls,
            grace: self.shutdown_grace,
        })
    }

    /// What the API speaks, as addresses begin.
    pub fn scheme(&self) -> &'static str {
        if self.tls_certificate.is_some() { "https" } else { "http" }
    }

    /// The way out to Stripe; none: there is no billing.
    ///
    /// # Errors
    /// When no connection can be made at all.
    pub fn stripe(&self) -> Result<Option<tenantry_stripe::Client>, ConfigError> {
        let Some(key) = &self.stripe_secret_key else { return Ok(None) };
        let (base, key, rate) = (self.stripe_api_base.0.clone(), key.clone(), self.stripe_rate_limit);
        let client = tenantry_stripe::Client::new(tenantry_stripe::Settings { base, key, rate });
        client.map(Some).map_err(|error| ConfigError(format!("STRIPE_API_BASE: {error}")))
    }

    /// What is billed; none: nothing is.
    pub fn billing(&self) -> Option<tenantry_accounts::billing::Settings> {
        self.stripe_secret_key.as_ref().map(|_| tenantry_accounts::billing::Settings {
            prices: self.stripe_prices.0.clone(),
            grace: self.stripe_grace,
            settle: self.stripe_settle_delay,
        })
    }

    /// Where traces go, and which; none: nowhere.
    ///
    /// # Errors
    /// When the headers or the sampler cannot be read.
    pub fn traces(&self) -> Result<Option<tenantry_otel::Settings>, ConfigError> {
        let Some(endpoint) = &self.otel_exporter_otlp_endpoint else { return Ok(None) };
        // Not read by the command line, which says what was wrong: they are secrets.
        let headers = self.otel_exporter_otlp_headers.as_deref().unwrap_or_default().parse();
        let headers = headers.map_err(|error: tenantry_otel::WrongHeaders| {
            ConfigError(format!("OTEL_EXPORTER_OTLP_HEADERS {error}"))
        })?;
        let sampler = Sampler::named(&self.otel_traces_sampler, self.otel_traces_sampler_arg);
        Ok(Some(tenantry_otel::Settings {
            endpoint: endpoint.0.clone(),
            headers,
            timeout: Duration::from_millis(self.otel_exporter_otlp_timeout),
            sampler: sampler
                .map_err(|_| ConfigError("OTEL_TRACES_SAMPLER is no sampler that there is".into()))?,
            service: tenantry_otel::Service {
                name: self.otel_service_name.clone(),
                version: env!("CARGO_PKG_VERSION"),
                instance: Uuid::new_v4().to_string(),
            },
        }))
    }

    /// How clients reach this service.
    ///
    /// # Errors
    /// When PUBLIC_URL is not set and LISTEN does not tell.
    pub fn public_url(&self) -> Result<String, ConfigError> {
        match &self.public_url {
            Some(url) => Ok(url.0.clone()),
            None if self.listen.port() == 0 || self.listen.ip().is_unspecified() => {
                Err(ConfigError(format!(
                    "PUBLIC_URL is not set, and LISTEN={} is no address that a link could lead to",
                    self.listen
                )))
            }
            None => Ok(format!("{}://{}", self.scheme(), self.listen)),
        }
    }
}

/// The number of a history of the database, from 1 on. It is written as servers write their timelines: then one that is
/// told and one that is asked compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(NonZeroU32);

impl FromStr for Epoch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| "must be a number from 1 to 4294967295".into())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}", self.0)
    }
}

/// An http or https URL without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl(pub String);

impl FromStr for WebUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: poem::http::Uri = text.parse().map_err(|_| "not a URL".to_owned())?;
        match (url.scheme_str(), url.authority(), url.query()) {
            (Some("http" | "https"), Some(_), None) => Ok(Self(text.trim_end_matches('/').into())),
            _ => Err("must look like https://example.org".into()),
        }
    }
}

/// A web origin: scheme, host and port, nothing else. `*` is refused: answers carry credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(pub String);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        // Browsers leave the scheme's own port out.
        let text = match text.split_once("://") {
            Some(("https", _)) => text.strip_suffix(":443").unwrap_or(&text),
            _ => text.strip_suffix(":80").unwrap_or(&text),
        };
        let WebUrl(url) = text.parse().map_err(|_| "must look like https://app.example.org".to_owned())?;
        match url.parse::<poem::http::Uri>() {
            Ok(uri) if uri.path() == "/" && url.matches('/').count() == 2 => Ok(Self(url)),
            _ => Err("must be scheme, host and port only, such as https://app.example.org".into()),
        }
    }
}

/// Seats by plan, as `basic=10,pro=100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanSeats(pub tenantry_accounts::tenants::Seats);

impl FromStr for PlanSeats {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut seats = tenantry_accounts::tenants::Seats { basic: None, pro: None, enterprise: None };
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (plan, n) = part.split_once('=').ok_or("must look like basic=10,pro=100")?;
            let n: i32 = n.trim().parse().ok().filter(|n| *n > 0).ok_or("seats must be a number above 0")?;
            match plan.trim() {
                "basic" => seats.basic = Some(n),
                "pro" => seats.pro = Some(n),
                "enterprise" => seats.enterprise = Some(n),
                _ => return Err("plans are basic, pro and enterprise".into()),
            }
        }
        Ok(Self(seats))
    }
}

/// What prices give, as `price_1=pro,price_2=enterprise/seat`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StripePrices(pub HashMap<String, Price>);

impl FromStr for StripePrices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "must look like price_1=pro,price_2=enterprise/seat; plans are basic, pro and enterprise";
        let price = |part: &str| {
            let (id, plan) = part.trim().split_once('=')?;
            let (plan, by_seat) = plan.strip_suffix("/seat").map_or((plan, false), |plan| (plan, true));
            Some((id.trim().to_owned(), Price { plan: Plan::named(plan.trim())?, by_seat }))
        };
        let parts = text.split(',').filter(|part| !part.trim().is_empty());
        let prices =
            parts.map(|part| price(part).ok_or_else(|| wrong.to_owned())).collect::<Result<_, _>>()?;
        Ok(Self(prices))
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
    let net = address
        .or_else(|_| text.parse())
        .map_err(|_| "must be an address or a network such as 10.0.0.0/8")?;
    Ok(as_ipv4(net).unwrap_or(net))
}

/// IPv4 in IPv6 clothes, as which no address is looked at.
fn as_ipv4(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(net) = net else { return None };
    let (address, bits) = (net.addr().to_ipv4_mapped()?, net.prefix_len().checked_sub(96)?);
    Some(ipnet::Ipv4Net::new(address, bits).ok()?.into())
}

fn period(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(period) if period.is_zero() => Err("must be longer than nothing".into()),
        Ok(period) => Ok(period),
        Err(_) => Err("must be a time such as 500ms, 30s, 10m or 30d".into()),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(name, size)| text.strip_suffix(name).map(|digits| (digits, *size)))
        .unwrap_or((text, 1));
    let bytes = digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
    bytes.ok_or_else(|| "must be a number of bytes above 0, such as 1048576 or 256MiB".into())
}

fn cache_ttl(text: &str) -> Result<Duration, String> {
    period(text)
        .and_then(|time| if time <= LONGEST_TTL { Ok(time) } else { Err("must be at most 1d".into()) })
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3650 * 24 * 3600);
    period(text).and_then(|time| {
        if bounds.contains(&time) { Ok(time) } else { Err("must be between 1s and 3650d".into()) }
    })
}

fn grace(text: &str) -> Result<Duration, String> {
    days(text, 1)
}

// The database refuses less as well: what was done lately is nobody's to sweep away.
fn retention(text: &str) -> Result<Duration, String> {
    days(text, 30)
}

fn days(text: &str, least: u64) -> Result<Duration, String> {
    const DAY: u64 = 24 * 3600;
    let bounds = Duration::from_secs(least * DAY)..=Duration::from_secs(36_500 * DAY);
    period(text).and_then(|time| {
        if bounds.contains(&time) { Ok(time) } else { Err(format!("must be between {least}d and 36500d")) }
    })
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "must be a number from 0 to 1, such as 0.1".into())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "must be a number above 0".into())
}
