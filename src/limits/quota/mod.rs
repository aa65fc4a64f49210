//! Quotas of tenants by plan, of all who act in a tenant on all processes together.
//!
//! Redis holds how much is used. A process takes a hundredth of the quota at a time and may use it for a hundredth of the
//! period, a second at most; by then it has taken the next, so that no request waits but the first after a pause. What it has not used it gives
//! back. What is leased may be used as late as the lease ends, and so much of the period is kept back in Redis: whatever
//! processes do, in no time `t` more is let in than the quota and what is replenished in `t`.
//!
//! While Redis does not answer each process lets its share of the rate in, out of what was left, and tells Redis afterwards.

mod state;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tenantry_accounts::{TenantId, tenants::Plan};
use tokio::{sync::oneshot, time::sleep};

use self::state::{State, Step};
use super::{
    Rate,
    buckets::Buckets,
    global::{Cells, Global, Question, Taken, name},
    policy::{Decision, Policy, Verdict},
};

/// The part of names in Redis that tells what is limited.
const LIMIT: &str = "tenant";

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

/// What Redis is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    /// A chunk, of which one is used at once.
    One,
    /// A chunk, before it is needed.
    More,
    /// Nothing: what was not used is given back.
    Nothing,
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

    /// Whose it is. Plans of one period are one, so that another plan brings no second quota; those of different periods are
    /// kept apart, since the shorter would cut off what the longer has counted.
    fn key(&self, tenant: TenantId) -> u128 {
        tenant.0.as_u128() ^ self.policy.period.as_nanos()
    }

    /// The name of a tenant's quota in Redis.
    pub(super) fn name(&self, tenant: TenantId) -> String {
        name(LIMIT, self.key(tenant))
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
        let bucket = self.buckets.get(quota.key(tenant), |key| Bucket::new(name(LIMIT, key)));
        let step = bucket.state().take(quota, self.start.elapsed(), self.global.replicas());
        let decision = match step {
            Step::Decided(decision) => decision,
            Step::Low(decision) => {
                tokio::spawn(self.clone().refill(bucket, quota.clone()));
                decision
            }
            // In a place of its own, so that those who need not wait do not carry it along.
            Step::Empty => Box::pin(self.wait(&bucket, quota)).await,
        };
        verdict.add(&quota.policy, decision);
    }

    /// What is known without asking of how long the tenant is refused, for a request that another limit refuses: it is not
    /// counted.
    pub(super) fn look(&self, tenant: TenantId, plan: Plan, verdict: &mut Verdict) {
        let Some(quota) = self.of(plan) else { return };
        let Some(bucket) = self.buckets.find(quota.key(tenant)) else { return };
        if let Some(wait) = bucket.state().wait(quota, self.start.elapsed()) {
            verdict.add(&quota.policy, Decision::Refused { wait });
        }
    }

    /// Waits for what comes of asking Redis, for as long as a request may.
    async fn wait(self: &Arc<Self>, bucket: &Arc<Bucket>, quota: &Arc<Quota>) -> Decision {
        let begun = self.start.elapsed();
        let (tell, told) = oneshot::channel();
        tokio::spawn(tenantry_trace::carried(self.clone().take(bucket.clone(), quota.clone(), tell)));
        let answer = self.global.wait(told).await;
        let (mut state, now) = (bucket.state(), self.start.elapsed());
        match answer {
            Some(Some(decision)) => decision,
            Some(None) => state.take_here(quota, now, self.global.replicas()),
            None => {
                state.waited_in_vain(begun, now);
                state.take_here(quota, now, self.global.replicas())
            }
        }
    }

    /// Takes a chunk and one of it for somebody, or says that Redis does not answer. If they have not waited for it, it
    /// is given back.
    async fn take(
        self: Arc<Self>,
        bucket: Arc<Bucket>,
        quota: Arc<Quota>,
        tell: oneshot::Sender<Option<Decision>>,
    ) {
        let _filling = bucket.filling.lock().await;
        if tell.is_closed() {
            return;
        }
        // Others may have taken more meanwhile.
        let step = bucket.state().take(&quota, self.start.elapsed(), self.global.replicas());
        let (decision, taken) = match step {
            Step::Decided(decision) => (Some(decision), None),
            Step::Low(decision) => {
                bucket.state().is_refilling = false;
                (Some(decision), None)
            }
            Step::Empty => {
                let taken = self.ask(&bucket, &quota, Want::One).await;
                let decision = taken.map(|taken| match taken {
                    Taken { count: 0, wait, .. } => Decision::Refused { wait },
                    _ => bucket.state().admitted(&quota, self.start.elapsed()),
                });
                (decision, taken.filter(|taken| taken.count > 0))
            }
        };
        if let (Err(_), Some(taken)) = (tell.send(decision), taken) {
            bucket.state().unused.push(taken.unused(1));
            self.ask(&bucket, &quota, Want::Nothing).await;
        }
    }

    /// Takes more before it is needed.
    async fn refill(self: Arc<Self>, bucket: Arc<Bucket>, quota: Arc<Quota>) {
        let _filling = bucket.filling.lock().await;
        // Others may have done so meanwhile.
        if bucket.state().is_low(&quota, self.start.elapsed()) {
            self.ask(&bucket, &quota, Want::More).await;
        }
        bucket.state().is_refilling = false;
    }

    /// Asks Redis for what is wanted, and gives it back what was not used. Whoever calls this holds `filling`.
    async fn ask(self: &Arc<Self>, bucket: &Arc<Bucket>, quota: &Arc<Quota>, want: Want) -> Option<Taken> {
        let replicas = self.global.replicas();
        let (asked, told, unused) = {
            let (mut state, now) = (bucket.state(), self.start.elapsed());
            let (told, unused) = state.ask(quota, now, replicas);
            (now, told, unused)
        };
        let question = Question {
            name: &bucket.name,
            cells: quota.cells,
            want: if want == Want::Nothing { 0 } else { quota.chunk },
            told,
            unused: &unused,
        };
        let taken = self.global.take(question).await.ok();
        let outcome = match &taken {
            None => "failed",
            Some(_) if want == Want::Nothing => "returned",
            Some(taken) if taken.count == 0 => "refused",
            Some(_) => "taken",
        };
        metrics::counter!("tenantry_limit_refills_total", "outcome" => outcome).increment(1);
        let (mut state, now) = (bucket.state(), self.start.elapsed());
        match &taken {
            None => state.not_answered(told, now),
            Some(taken) => {
                state.answered(quota, taken, want, asked, now, replicas);
                if state.has_to_settle() {
                    tokio::spawn(self.clone().settle(bucket.clone(), quota.clone()));
                }
            }
        }
        taken
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
                self.ask(&bucket, &quota, Want::Nothing).await;
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

impl Bucket {
    fn new(name: String) -> Self {
        Self { name, state: Mutex::default(), filling: tokio::sync::Mutex::default() }
    }

    /// Nothing that could panic is done while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
