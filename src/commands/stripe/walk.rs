//! Walks that somebody watches: what passes is waited out, and Ctrl-C leaves a place to go on from.

use std::{error::Error, time::Duration};

use indicatif::HumanDuration;
use tenantry_accounts::{
    App,
    billing::walk::{self, Name, Walk},
};
use tenantry_stripe::{Client, Error as StripeError};
use tenantry_workers::stripe::{self, Seen, Unfinished};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::progress::{Shown, things};

/// The longest that is waited before Stripe is asked again.
const LONGEST: Duration = Duration::from_secs(60);

pub(super) struct Walker<'a> {
    app: &'a App,
    client: &'a Client,
    /// How one goes on.
    how: &'static str,
    shown: Shown,
    stop: [Signal; 2],
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        app: &'a App,
        client: &'a Client,
        how: &'static str,
        every: Duration,
    ) -> Result<Self, Box<dyn Error>> {
        let stop = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        Ok(Self { app, client, how, shown: Shown::new(every)?, stop })
    }

    /// Goes on with a walk until its end; how it is then, and what was seen meanwhile.
    pub(super) async fn finish(&mut self, name: Name) -> Result<(Walk, Seen), Box<dyn Error>> {
        let (mut total, mut failures) = (Seen::default(), 0);
        if let Some(walk) = walk::find(self.app, name).await? {
            self.shown.show(name, &walk);
        }
        loop {
            let step = tokio::select! {
                step = stripe::step(self.app, self.client, name) => step,
                () = stopped(&mut self.stop) => return Err(self.interrupted(name)),
            };
            match step {
                Ok((walk, seen)) => {
                    (total, failures) = (total + seen, 0);
                    if walk.ended_at.is_some() {
                        self.shown.clear();
                        return Ok((walk, total));
                    }
                    self.shown.show(name, &walk);
                }
                Err(Unfinished::Stripe(error)) if error.passes() => {
                    let wait = match error {
                        StripeError::Limited(wait) => wait.max(Duration::from_secs(1)),
                        _ => {
                            failures += 1;
                            Duration::from_secs(1 << (failures - 1).min(6)).min(LONGEST)
                        }
                    };
                    self.shown.say(&format!("{error}; asking again in {}", HumanDuration(wait)));
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = stopped(&mut self.stop) => return Err(self.interrupted(name)),
                    }
                }
                Err(error) => return Err(format!("{error}; {}", self.how).into()),
            }
        }
    }

    /// What was under way is undone or done again.
    fn interrupted(&self, name: Name) -> Box<dyn Error> {
        format!("stopped among the {}; {}", things(name), self.how).into()
    }
}

async fn stopped(stop: &mut [Signal; 2]) {
    let [interrupt, terminate] = stop;
    tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
}
