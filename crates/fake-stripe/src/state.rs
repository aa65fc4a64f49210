//! Everything that the fake knows, behind one lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Dunning,
    cached::Cached,
    checkout::Order,
    error::{Error, Result},
    events,
    faults::{Dice, Faults},
    idempotency::Keys,
    queue::Queue,
    subscriptions,
    table::Table,
};

/// In every id, behind its prefix: what came from a fake is known as such wherever it turns up.
const MARK: &str = "Fake";

/// Each start leaves so many ids out: some may have been given away after the state was last written.
const GAP: u64 = 1_000_000;

/// Kinds of object: the prefix of their ids, and what Stripe calls them when there is none.
const KINDS: &[(&str, &str)] = &[
    ("cus", "customer"),
    ("prod", "product"),
    ("price", "price"),
    ("sub", "subscription"),
    ("si", "subscription_item"),
    ("sub_sched", "subscription_schedule"),
    ("in", "invoice"),
    ("il", "line_item"),
    ("li", "item"),
    ("pm", "PaymentMethod"),
    ("cs_test", "checkout.session"),
    ("bps", "billing_portal.session"),
    ("evt", "event"),
    ("we", "webhook endpoint"),
    ("clock", "test_clock"),
];

/// All of it is kept in the state file, but for what is skipped.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Where the fake is reached, without a slash at the end.
    pub(crate) base: String,
    /// The first part of every id, so that another run's ids are others.
    run: String,
    counters: BTreeMap<String, u64>,
    tables: BTreeMap<String, Table>,
    /// Seconds by which the fake is ahead of the machine's clock.
    pub(crate) ahead: i64,
    /// What will happen to subscriptions by itself: test clock (or nothing), second, subscription.
    #[serde(skip)]
    pub(crate) due: BTreeSet<(String, i64, String)>,
    #[serde(skip)]
    pub(crate) due_of: HashMap<String, (String, i64)>,
    /// Subscriptions whose coming end of trial has been announced, and for which.
    pub(crate) announced: HashMap<String, i64>,
    pub(crate) subscription_of_item: HashMap<String, String>,
    /// What checkout sessions are about; their objects show it only when asked.
    pub(crate) orders: HashMap<String, Cached<Order>>,
    /// Payment methods that are declined.
    pub(crate) declining: HashSet<String>,
    pub(crate) secrets: HashMap<String, Vec<String>>,
    /// Endpoints that nobody has made over the API.
    pub(crate) configured: BTreeSet<String>,
    /// Those of an earlier run, which the next ones to be configured go on as.
    #[serde(skip)]
    pub(crate) earlier: BTreeSet<String>,
    #[serde(skip)]
    pub(crate) dunning: Dunning,
    #[serde(skip)]
    pub(crate) faults: Faults,
    #[serde(skip)]
    pub(crate) dice: Dice,
    pub(crate) queue: Queue,
    pub(crate) keys: Keys,
    /// Requests by route.
    #[serde(skip)]
    pub(crate) counts: BTreeMap<String, u64>,
    /// The request that is being worked on: its id, and its idempotency key.
    #[serde(skip)]
    pub(crate) request: (Option<String>, Option<String>),
}

impl State {
    pub(crate) fn new(base: String, seed: u64, faults: Faults, dunning: Dunning) -> Self {
        let dice = Dice::new(faults.seed.unwrap_or(seed));
        Self {
            base,
            run: letters(seed),
            counters: BTreeMap::new(),
            tables: BTreeMap::new(),
            ahead: 0,
            due: BTreeSet::new(),
            due_of: HashMap::new(),
            announced: HashMap::new(),
            subscription_of_item: HashMap::new(),
            orders: HashMap::new(),
            declining: HashSet::new(),
            secrets: HashMap::new(),
            configured: BTreeSet::new(),
            earlier: BTreeSet::new(),
            dunning,
            faults,
            dice,
            queue: Queue::default(),
            keys: Keys::default(),
            counts: BTreeMap::new(),
            request: (None, None),
        }
    }

    /// What an earlier run has left, to go on with at this address.
    pub(crate) fn resume(mut self, base: String, seed: u64, faults: Faults, dunning: Dunning) -> Self {
        self.counters.values_mut().for_each(|counter| *counter += GAP);
        for prefix in ["cs_test", "bps"] {
            let pages: Vec<Value> = self.rows(prefix).cloned().collect();
            for mut page in pages {
                if let Some(path) = page["url"].as_str().and_then(|url| url.strip_prefix(&self.base)) {
                    page["url"] = json!(format!("{base}{path}"));
                    self.put(prefix, page);
                }
            }
        }
        self.earlier.clone_from(&self.configured);
        (self.base, self.faults, self.dunning) = (base, faults, dunning);
        self.dice = Dice::new(self.faults.seed.unwrap_or(seed));
        if self.faults.webhooks.deliver {
            for delivery in self.queue.take_all() {
                self.queue.wait(delivery, Duration::ZERO);
            }
        }
        for subscription in self.rows("sub").cloned().collect::<Vec<_>>() {
            subscriptions::plan(&mut self, &subscription);
        }
        self
    }

    /// Forgets what Stripe would not tell any more.
    pub(crate) fn forget_old(&mut self) {
        let now = self.now();
        self.keys.forget(now);
        self.table("evt").drop_first_while(|event| int(event, "created") < now - events::KEPT);
    }

    /// Forgets everything but faults, settings and the endpoints that somebody configured. Ids go on.
    pub(crate) fn clear(&mut self) {
        let configured: Vec<Value> =
            self.rows("we").filter(|we| self.configured.contains(text(we, "id"))).cloned().collect();
        let mut new = Self::new(self.base.clone(), 0, self.faults.clone(), self.dunning);
        new.run = std::mem::take(&mut self.run);
        new.counters = std::mem::take(&mut self.counters);
        std::mem::swap(&mut new.dice, &mut self.dice);
        (new.configured, new.earlier) =
            (std::mem::take(&mut self.configured), std::mem::take(&mut self.earlier));
        new.queue.under_way = std::mem::take(&mut self.queue.under_way);
        for endpoint in configured {
            let id = text(&endpoint, "id").to_owned();
            new.secrets.insert(id.clone(), self.secrets.remove(&id).unwrap_or_default());
            new.put("we", endpoint);
        }
        *self = new;
    }

    /// The next id of a kind: later ones sort after earlier ones.
    pub(crate) fn id(&mut self, prefix: &'static str) -> String {
        let counter = self.counters.entry(prefix.to_owned()).or_default();
        *counter += 1;
        format!("{prefix}_{MARK}{}{counter:010}", self.run)
    }

    /// How many ids of a kind have been given so far.
    pub(crate) fn made(&self, prefix: &str) -> u64 {
        self.counters.get(prefix).copied().unwrap_or_default()
    }

    pub(crate) fn now(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_secs() as i64 + self.ahead
    }

    /// The time at which objects of a test clock are, or everything else.
    pub(crate) fn now_on(&self, clock: Option<&str>) -> i64 {
        let clock = clock.and_then(|clock| self.find("clock", clock));
        clock.map_or_else(|| self.now(), |clock| int(clock, "frozen_time"))
    }

    pub(crate) fn table(&mut self, prefix: &'static str) -> &mut Table {
        self.tables.entry(prefix.to_owned()).or_default()
    }

    pub(crate) fn rows(&self, prefix: &str) -> impl DoubleEndedIterator<Item = &Value> {
        self.tables.get(prefix).into_iter().flat_map(Table::iter)
    }

    /// The objects of a kind that belong to a customer.
    pub(crate) fn of_customer(&self, prefix: &str, customer: &str) -> Vec<Value> {
        self.tables.get(prefix).map(|table| table.of_customer(customer)).unwrap_or_default()
    }

    pub(crate) fn put(&mut self, prefix: &'static str, object: Value) {
        self.table(prefix).put(object);
    }

    pub(crate) fn find(&self, prefix: &str, id: &str) -> Option<&Value> {
        self.tables.get(prefix)?.get(id)
    }

    /// The object at an address.
    pub(crate) fn get(&self, prefix: &str, id: &str) -> Result<Value> {
        self.find(prefix, id).cloned().ok_or_else(|| Error::not_found(kind(prefix), id))
    }

    /// An object that a parameter names, and that has not been deleted.
    pub(crate) fn named(&self, prefix: &str, id: &str, param: &str) -> Result<Value> {
        let found = self.find(prefix, id).filter(|object| object["deleted"] != true);
        found.cloned().ok_or_else(|| Error::no_such(kind(prefix), id, param))
    }

    /// The object with this id, whatever it is.
    pub(crate) fn any(&self, id: &str) -> Option<&Value> {
        let (prefix, _) =
            KINDS.iter().filter(|(prefix, _)| id.starts_with(prefix)).max_by_key(|(p, _)| p.len())?;
        self.find(prefix, id)
    }
}

/// Whether an id was given by a fake, this one or another.
#[must_use]
pub fn is_fake(id: &str) -> bool {
    KINDS.iter().any(|(prefix, _)| {
        id.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')?.strip_prefix(MARK)).is_some()
    })
}

fn kind(prefix: &str) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == prefix).map_or("object", |(_, kind)| kind)
}

/// A seed as six letters and digits.
fn letters(seed: u64) -> String {
    let mut rest = seed;
    let mut text = String::new();
    for _ in 0..6 {
        text.push(char::from_digit((rest % 36) as u32, 36).unwrap_or('0'));
        rest /= 36;
    }
    text
}

pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

pub(crate) fn int(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap_or_default()
}

/// Fields that are there and say nothing.
pub(crate) fn without(object: &mut Value, fields: &[&str]) {
    for field in fields {
        object[*field] = Value::Null;
    }
}
