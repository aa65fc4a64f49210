//! The log: one line for each request and whatever else is to be said, to standard error, so that what a command prints can be piped.

mod answered;
mod json;
mod lines;
mod pretty;

use std::{io::IsTerminal, sync::OnceLock};

use tracing_subscriber::EnvFilter;

pub(crate) use self::answered::Answered;
use crate::config::{Config, LogFormat};

/// How lines are written.
#[derive(Clone, Copy)]
enum Format {
    Json,
    Pretty,
}

static FORMAT: OnceLock<Format> = OnceLock::new();

fn format() -> Format {
    FORMAT.get().copied().unwrap_or(Format::Pretty)
}

/// Writes what has been said so far, when it is told and when it goes.
#[must_use]
pub(crate) struct Log(());

impl Log {
    /// Begins it as the settings say; for people in `tenantry dev`.
    ///
    /// # Errors
    /// When the filter cannot be read.
    pub(crate) fn begin(config: &Config, dev: bool) -> Result<Self, String> {
        let filter = EnvFilter::try_new(&config.rust_log).map_err(|_| {
            format!("RUST_LOG: {:?} is no filter; try info or warn,tenantry=debug", config.rust_log)
        })?;
        let lines = lines::start().map_err(|error| format!("no thread for the log: {error}"))?;
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
        let is_pretty = dev || config.log_format == LogFormat::Pretty;
        FORMAT.get_or_init(|| if is_pretty { Format::Pretty } else { Format::Json });
        match format() {
            Format::Pretty => {
                let logs = logs.with_target(false).with_ansi(std::io::stderr().is_terminal());
                logs.fmt_fields(pretty::Pretty::default()).init();
            }
            Format::Json => logs.fmt_fields(json::Json).event_format(json::Json).init(),
        }
        Ok(Self(()))
    }

    /// Waits until all of it is written.
    pub(crate) fn flush() {
        lines::flush();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        Self::flush();
    }
}
