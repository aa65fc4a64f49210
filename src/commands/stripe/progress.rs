//! How far a walk through Stripe is: in words, as a bar, or as a line now and then.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tenantry_accounts::billing::walk::{Name, Walk};

/// What is walked through.
pub(super) fn things(name: Name) -> &'static str {
    match name {
        Name::Customers => "customers",
        Name::Unlisted => "customers of tenants that were not listed",
        Name::Subscriptions | Name::Comparison => "subscriptions",
        Name::Events => "events",
    }
}

/// Such as "1,200 customers, about 34 %, about 3 minutes left". What is not known is not said.
pub(super) fn so_far(name: Name, walk: &Walk) -> String {
    let mut text = format!("{} {}", HumanCount(walk.done.unsigned_abs()), things(name));
    if let Some(share) = walk.share() {
        // It is at its end when it is, not when it seems so.
        text += &format!(", about {:.0} %", (share * 100.0).floor().min(99.0));
    }
    if let Some(left) = walk.left() {
        text += &format!(", about {} left", HumanDuration(left));
    }
    text
}

/// Where it is shown.
pub(super) enum Shown {
    /// On a terminal.
    Bar(ProgressBar),
    /// Elsewhere: a line now and then.
    Lines {
        /// How often.
        every: Duration,
        /// When the last was printed.
        last: Instant,
    },
}

impl Shown {
    pub(super) fn new(every: Duration) -> Result<Self, indicatif::style::TemplateError> {
        if !std::io::stdout().is_terminal() {
            return Ok(Self::Lines { every, last: Instant::now() });
        }
        let style = ProgressStyle::with_template("{spinner} [{bar:30}] {msg}")?.progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(1_000), ProgressDrawTarget::stdout()).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(Self::Bar(bar))
    }

    pub(super) fn show(&mut self, name: Name, walk: &Walk) {
        match self {
            Self::Bar(bar) => {
                bar.set_position((walk.share().unwrap_or(0.0) * 1_000.0) as u64);
                bar.set_message(so_far(name, walk));
            }
            Self::Lines { every, last } if last.elapsed() >= *every => {
                *last = Instant::now();
                println!("{}", so_far(name, walk));
            }
            Self::Lines { .. } => {}
        }
    }

    /// Says something beside it.
    pub(super) fn say(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| println!("{text}")),
            Self::Lines { .. } => println!("{text}"),
        }
    }

    /// Takes it away, for what is printed next.
    pub(super) fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.set_message("");
            bar.set_position(0);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
