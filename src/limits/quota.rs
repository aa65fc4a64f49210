//! Quotas of tenants by plan, of all who act in a tenant on all processes together.
//!
//! Redis holds how much is used. A process takes a hundredth of the quota at a time and may use it for a hundredth of the
//! period, a second at most; by then it has taken the next, so that no request waits but the first after a pause. What it has not used it gives
//! back. What is leased may be used as late as the lease ends, and so much of the period is kept back in Redis: whatever
//! processes do, in no time `t` more is let in than the quota and what is replenished in `t`.
//!
//! While Redis does not answer each process lets its share of the rate in, out of what was left, and tells Redis afterwards.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tenantry_accounts::{TenantId, tenants::Plan};
use tokio::time::{sleep, timeout};

use super::{
    Rate,
    buckets::Buckets,
    global::{Cells, Global, Known, Taken, Unused, name},
    policy::{Decision, Policy, Verdict},
};

/// How long Redis is not asked for a tenant after it has not answered.
const AWAY: Duration = Duration::from_millis(250);

/// What each plan allows, and what the tenants have used of it.
pub(super) struct Quotas {
    global: Arc<Global>,
    basic: Option<Arc<Quota>>,
    pro: Option<Arc<Quota>>,
    enterprise: Option<Arc<Quota>>,
    /// From when on times are counted.
    start: Instant,
    buckets: Buckets<Bucket>,
}

/// Quotas by plan, as settings say them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByPlan {
    pub(crate) basic: Rate,
    pub(crate) pro: Rate,
    pub(crate) enterprise: Rate,
}

impl ByPlan {
    pub(crate) fn of(self, plan: Plan) -> Rate {
        match plan {
            Plan::Basic => self.basic,
            Plan::Pro => self.pro,
            Plan::Enterprise => self.enterprise,
        }
    }
}

/// What a plan allows.
#[derive(Debug)]
pub(super) struct Quota {
    pub(super) policy: Policy,
    pub(super) cells: Cells,
    /// How many are taken at a time, and for how long. One at a time is used at once, and nothing is leased.
    chunk: u32,
    lease: Duration,
}

/// What a process has of a tenant's quota.
struct Bucket {
    name: String,
    state: Mutex<State>,
    /// Held by whoever asks Redis for more; others wait for what comes of it.
    filling: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// The oldest first.
    leases: VecDeque<Lease>,
    unused: Vec<Unused>,
    known: Known,
    /// Nobody is let in before this time, and Redis is not asked before `ask`: it has said so.
    refused: Duration,
    ask: Duration,
    /// Until when Redis is not asked since it has not answered.
    away: Duration,
    /// Whether somebody waits for the leases to end, and whether somebody is about to take more.
    is_settling: bool,
    is_refilling: bool,
}

struct Lease {
    left: u32,
    ends: Duration,
    until: u64,
    run: u32,
}

/// What a look into the process says.
enum Step {
    Decided(Decision),
    /// Let in, and more should be taken before it is needed.
    Low(Decision),
    /// Redis has to be asked.
    Empty,
}

impl Quota {
    pub(super) fn new(rate: Rate) -> Option<Self> {
        let Rate::Per(n, period) = rate else { return None };
        let policy = Policy::new("tenant", n, period);
        let chunk = (n.get() / 100).max(1);
        let lease = if chunk > 1 { (period / 100).min(Duration::from_secs(1)) } else { Duration::ZERO };
        let cells = Cells::new(&policy, lease);
        Some(Self { policy, cells, chunk, lease })
    }
}

impl Quotas {
    pub(super) fn new(global: Arc<Global>, rates: ByPlan) -> Self {
        let quota = |plan| Quota::new(rates.of(plan)).map(Arc::new);
        Self {
            global,
            basic: quota(Plan::Basic),
            pro: quota(Plan::Pro),
            enterprise: quota(Plan::Enterprise),
            start: Instant::now(),
            buckets: Buckets::new(|shared| Bucket::new(name("tenants", shared))),
        }
    }

    fn of(&self, plan: Plan) -> Option<&Arc<Quota>> {
        match plan {
            Plan::Basic => self.basic.as_ref(),
            Plan::Pro => self.pro.as_ref(),
            Plan::Enterprise => self.enterprise.as_ref(),
        }
    }

    /// Counts a request. Waits for Redis where the process has nothing left and nothing was said of that.
    pub(super) async fn count(self: &Arc<Self>, tenant: TenantId, plan: Plan, verdict: &mut Verdict) {
        let Some(quota) = self.of(plan) else { return };
        let bucket = self.buckets.get(tenant.0.as_u128(), |key| Bucket::new(bucket_name(key)));
        let step = bucket.state().take(quota, self.start.elapsed(), self.global.replicas());
        let decision = match step {
            Step::Decided(decision) => decision,
            Step::Low(decision) => {
                tokio::spawn(self.clone().refill(bucket, quota.clone()));
                decision
            }
            Step::Empty => self.wait(&bucket, quota).await,
        };
        verdict.add(&quota.policy, decision);
    }

    /// What is known without asking of how long the tenant is refused, for a request that another limit refuses: it is not
    /// counted.
    pub(super) fn look(&self, tenant: TenantId, plan: Plan, verdict: &mut Verdict) {
        let Some(quota) = self.of(plan) else { return };
        let Some(bucket) = self.buckets.find(tenant.0.as_u128()) else { return };
        if let Some(wait) = bucket.state().wait(quota, self.start.elapsed()) {
            verdict.add(&quota.policy, Decision::Refused { wait });
        }
    }

    /// Waits for what comes of asking Redis, for as long as a request may.
    async fn wait(self: &Arc<Self>, bucket: &Arc<Bucket>, quota: &Arc<Quota>) -> Decision {
        let (begun, patience) = (Instant::now(), self.global.patience());
        let filling = timeout(patience, bucket.filling.lock()).await;
        let waited = begun.elapsed();
        tenantry_cache::charge_request(waited);
        let replicas = self.global.replicas();
        let Ok(_filling) = filling else {
            return bucket.state().take_here(quota, self.start.elapsed(), replicas);
        };
        let step = bucket.state().take(quota, self.start.elapsed(), replicas);
        match step {
            Step::Decided(decision) => return decision,
            Step::Low(decision) => {
                bucket.state().is_refilling = false;
                return decision;
            }
            Step::Empty => {}
        }
        let taken = self.ask(bucket, quota, (quota.chunk, 1), patience.saturating_sub(waited)).await;
        let (mut state, now) = (bucket.state(), self.start.elapsed());
        match taken {
            Some(Taken { count: 0, wait, .. }) => Decision::Refused { wait },
            Some(_) => state.admitted(quota, now),
            None => state.take_here(quota, now, replicas),
        }
    }

    /// Takes more before it is needed.
    async fn refill(self: Arc<Self>, bucket: Arc<Bucket>, quota: Arc<Quota>) {
        let _filling = bucket.filling.lock().await;
        // Others may have done so meanwhile.
        if bucket.state().is_low(&quota, self.start.elapsed()) {
            self.ask(&bucket, &quota, (quota.chunk, 0), self.global.patience()).await;
        }
        bucket.state().is_refilling = false;
    }

    /// Asks Redis for `want`, of which the caller uses so many at once, and gives it back what was not used. Whoever calls this
    /// holds `filling`.
    async fn ask(
        self: &Arc<Self>,
        bucket: &Arc<Bucket>,
        quota: &Arc<Quota>,
        (want, at_once): (u32, u32),
        patience: Duration,
    ) -> Option<Taken> {
        let (asked, told, unused) = {
            let (mut state, now) = (bucket.state(), self.start.elapsed());
            state.expire(now);
            (now, state.known, std::mem::take(&mut state.unused))
        };
        let taken = self.global.take(&bucket.name, quota.cells, want, (told, asked), &unused, patience).await;
        let outcome = match &taken {
            None => "failed",
            Some(_) if want == 0 => "returned",
            Some(taken) if taken.count == 0 => "refused",
            Some(_) => "taken",
        };
        metrics::counter!("tenantry_limit_refills_total", "outcome" => outcome).increment(1);
        let (mut state, now) = (bucket.state(), self.start.elapsed());
        let Some(taken) = taken else {
            state.away = now + AWAY;
            return None;
        };
        state.known.learn(&taken, told, now);
        if want > 0 && taken.count == 0 {
            state.refused = now + taken.wait;
            // Redis is not asked more often than that by those who are refused.
            let (least, most) = (Duration::from_millis(5), Duration::from_secs(1));
            state.ask = now + taken.wait.clamp(least, most);
        } else if taken.count > 0 {
            (state.refused, state.ask) = (now, now);
            let left = taken.count.saturating_sub(at_once);
            // Counted from before it was asked for.
            let ends = asked + quota.lease;
            if left > 0 {
                state.leases.push_back(Lease { left, ends, until: taken.until, run: taken.run });
                if !std::mem::replace(&mut state.is_settling, true) {
                    tokio::spawn(self.clone().settle(bucket.clone(), quota.clone()));
                }
            }
        }
        Some(taken)
    }

    /// Gives back what is left when the leases of a tenant have ended, and no other request has taken more.
    // Boxed, since what it does may begin it anew.
    fn settle(self: Arc<Self>, bucket: Arc<Bucket>, quota: Arc<Quota>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                let left = bucket.state().until_leases_end(self.start.elapsed());
                let Some(left) = left else { break };
                sleep(left).await;
            }
            let _filling = bucket.filling.lock().await;
            if !bucket.state().unused.is_empty() {
                self.ask(&bucket, &quota, (0, 0), self.global.patience()).await;
            }
        })
    }

    /// Forgets tenants that have all of their quota again.
    pub(super) fn forget(&self) {
        let now = self.start.elapsed();
        self.buckets.retain(|bucket| {
            let state = bucket.state();
            state.is_settling || !state.unused.is_empty() || state.known.until > now
        });
        metrics::gauge!("tenantry_limit_entries", "scope" => "tenant").set(self.buckets.len() as f64);
    }
}

/// The name of a tenant's quota in Redis.
pub(super) fn bucket_name(tenant: u128) -> String {
    name("tenant", tenant)
}

impl Bucket {
    fn new(name: String) -> Self {
        Self { name, state: Mutex::default(), filling: tokio::sync::Mutex::default() }
    }

    /// Nothing that could panic is done while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Decides what can be decided without asking.
    fn take(&mut self, quota: &Quota, now: Duration, replicas: NonZeroU32) -> Step {
        self.expire(now);
        if let Some(lease) = self.leases.front_mut() {
            lease.left -= 1;
            if lease.left == 0 {
                self.leases.pop_front();
            }
            let may_ask = self.ask <= now && self.away <= now && !self.is_refilling;
            self.is_refilling |= may_ask && self.is_low(quota, now);
            let decision = self.admitted(quota, now);
            return if may_ask && self.is_refilling { Step::Low(decision) } else { Step::Decided(decision) };
        }
        if now < self.away {
            return Step::Decided(self.take_here(quota, now, replicas));
        }
        if now < self.ask {
            let wait = self.refused.saturating_sub(now).max(self.ask - now);
            return Step::Decided(Decision::Refused { wait });
        }
        Step::Empty
    }

    /// Decides by what this process knows.
    fn take_here(&mut self, quota: &Quota, now: Duration, replicas: NonZeroU32) -> Decision {
        metrics::counter!("tenantry_limit_decisions_total", "scope" => "tenant", "by" => "process")
            .increment(1);
        match self.known.take(quota.cells, replicas, now) {
            Ok(()) => self.admitted(quota, now),
            Err(wait) => Decision::Refused { wait },
        }
    }

    /// Whether more should be taken: little is left, or may not be used for long.
    fn is_low(&self, quota: &Quota, now: Duration) -> bool {
        let ends = self.leases.back().map_or(now, |lease| lease.ends);
        self.leased() < quota.chunk / 2 || ends.saturating_sub(now) < quota.lease / 3
    }

    /// How long the leases go on. None: they have ended, and whoever waits for that need not come back.
    fn until_leases_end(&mut self, now: Duration) -> Option<Duration> {
        self.expire(now);
        // Those of another plan may be shorter.
        let last = self.leases.iter().map(|lease| lease.ends).max();
        self.is_settling = last.is_some();
        last.map(|ends| ends.saturating_sub(now))
    }

    fn leased(&self) -> u32 {
        self.leases.iter().map(|lease| lease.left).sum()
    }

    /// How long a request would have to wait, as far as this process knows.
    fn wait(&self, quota: &Quota, now: Duration) -> Option<Duration> {
        let next = self.known.until + Duration::from_micros(quota.cells.each);
        let wait = next.saturating_sub(now + Duration::from_micros(quota.cells.burst));
        let has_leased = self.leases.iter().any(|lease| lease.left > 0 && lease.ends > now);
        (!has_leased && !wait.is_zero()).then_some(wait)
    }

    /// What is left as of when Redis was asked, and what is leased.
    fn admitted(&self, quota: &Quota, now: Duration) -> Decision {
        let ahead = self.known.until.saturating_sub(now);
        let free = Duration::from_micros(quota.cells.burst).saturating_sub(ahead).as_micros();
        let free = u32::try_from(free / u128::from(quota.cells.each)).unwrap_or(u32::MAX);
        let remaining = free.saturating_add(self.leased()).min(quota.policy.quota.get());
        Decision::Admitted { remaining, whole_in: ahead }
    }

    /// Takes what has not been used in time out of use.
    fn expire(&mut self, now: Duration) {
        while let Some(&Lease { left, ends, until, run }) = self.leases.front()
            && ends <= now
        {
            self.leases.pop_front();
            self.unused.push(Unused { count: left, until, run });
        }
    }
}
