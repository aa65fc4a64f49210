//! What `dev` says when it is ready.

use std::{fmt, net::SocketAddr, time::Duration};

use super::{ADMIN, TENANT, billing::Billing};
use crate::{commands::seed, config::Config};

pub(super) struct Greeting<'a> {
    pub(super) address: SocketAddr,
    pub(super) after: Duration,
    pub(super) mail: &'a str,
    pub(super) billing: &'a Billing,
    pub(super) token: &'a str,
    pub(super) public_url: &'a str,
    pub(super) another: &'a str,
}

impl fmt::Display for Greeting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, mail, billing, token, public_url, another, .. } = self;
        writeln!(
            f,
            "
  Tenantry is ready after {:.1} s. Ctrl-C stops it; the data stays.

  API          http://{address}/api/v1
  Swagger UI   http://{address}/docs
  Mail         {mail}
  Stripe       {billing}
  Sign in as   {ADMIN} of tenant {TENANT}, password {}

  Try:

  token='{token}'
  curl -i http://{address}/api/v1/users/me -H \"Authorization: Bearer $token\"
",
            self.after.as_secs_f64(),
            seed::PASSWORD,
        )?;
        if matches!(billing, Billing::Fake(_)) {
            writeln!(
                f,
                "  Subscribe to a plan (the answer leads to a page to pay on; see \"Subscribe\" in README.md):

  curl http://{address}/api/v1/billing/checkout-sessions -H \"Authorization: Bearer $token\" \
                 -H 'Content-Type: application/json' \
                 -d '{{\"plan\": \"pro\", \"success_url\": \"{public_url}/docs\", \"cancel_url\": \"{public_url}/docs\"}}'
"
            )?;
        }
        writeln!(f, "  A second process beside this one:\n\n  {another}")
    }
}

/// The command line of a second API on the same servers, to be pasted into another shell.
pub(super) fn another_process(
    config: &Config,
    billing: &Billing,
) -> Result<String, Box<dyn std::error::Error>> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let mut settings = vec![
        ("DATABASE_URL", config.database_url()?.to_owned()),
        ("REDIS_URL", config.redis_url.clone().unwrap_or_default()),
        ("JWT_KEYS_DIR", config.jwt_keys_dir.canonicalize()?.display().to_string()),
        ("ENCRYPTION_KEYS_DIR", config.encryption_keys_dir().canonicalize()?.display().to_string()),
        // The issuer in the tokens.
        ("PUBLIC_URL", config.public_url()?),
        ("LISTEN", SocketAddr::new(config.listen.ip(), config.listen.port().wrapping_add(1)).to_string()),
    ];
    settings.extend(billing.settings());
    let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
    Ok(format!("{} {} api", settings.join(" "), quoted(&std::env::current_exe()?.display().to_string())))
}
