//! Lists, which have the newest first: a hundred at a time, from where one stopped.

use serde_json::Value;

use super::{Client, Error, PAGE};
use crate::{Event, Subscription};

/// Events that may say something about a subscription or a customer. Stripe takes twenty at most.
const EVENTS: [&str; 19] = [
    "checkout.session.completed",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.pending_update_applied",
    "customer.subscription.pending_update_expired",
    "customer.subscription.resumed",
    "customer.subscription.trial_will_end",
    "customer.subscription.updated",
    "invoice.paid",
    "invoice.payment_failed",
    "subscription_schedule.aborted",
    "subscription_schedule.canceled",
    "subscription_schedule.completed",
    "subscription_schedule.created",
    "subscription_schedule.expiring",
    "subscription_schedule.released",
    "subscription_schedule.updated",
];
/// From where on a list is asked for. Lists have the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Place {
    /// From the newest.
    #[default]
    Newest,
    /// After the object of this id. Stripe refuses that when the object has been deleted: then from the newest of those that
    /// had been made by then.
    After {
        /// Names it.
        id: String,
        /// When it was made, in Unix seconds; none: not known, and the list begins anew.
        made: Option<i64>,
    },
}

/// Part of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// What is in it, the newest first.
    pub data: Vec<T>,
    /// After what the next part begins; none: this is the last.
    pub next: Option<String>,
    /// When the first of it was made, in Unix seconds.
    pub newest: Option<i64>,
    /// When the last of it was made.
    pub oldest: Option<i64>,
}

/// What is listed from the newest to the oldest, all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Customers that have not been deleted.
    Customers,
    /// Subscriptions, ended ones too.
    Subscriptions,
    /// Events since then, in Unix seconds, that may say something about a subscription. Stripe lists those of 30 days.
    EventsSince(i64),
}

impl Listed {
    /// Path and parameters.
    fn query(self) -> (&'static str, Vec<(&'static str, String)>) {
        match self {
            Self::Customers => ("customers", vec![]),
            Self::Subscriptions => ("subscriptions", vec![("status", "all".to_owned())]),
            Self::EventsSince(since) => {
                let types = EVENTS.iter().map(|kind| ("types[]", (*kind).to_owned()));
                ("events", types.chain([("created[gte]", since.to_string())]).collect())
            }
        }
    }
}

/// A customer in a list: nothing about the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Names it.
    pub id: String,
    /// The mark that it was made with, if it was made with one. Everybody with a key can write one there.
    pub mark: Option<String>,
}

impl Client {
    /// Subscriptions, ended ones too, a hundred at a time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn subscriptions(&self, place: &Place) -> Result<Page<Subscription>, Error> {
        let page = self.list(Listed::Subscriptions, place).await?;
        page.read(|value| Subscription::read(value).ok_or(Error::Unreadable("subscription")))
    }

    /// Customers that have not been deleted, a hundred at a time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn customers(&self, place: &Place) -> Result<Page<Listing>, Error> {
        let page = self.list(Listed::Customers, place).await?;
        page.read(|value| {
            let id = value["id"].as_str().ok_or(Error::Unreadable("customer"))?.to_owned();
            Ok(Listing { id, mark: value["metadata"]["tenant_key"].as_str().map(str::to_owned) })
        })
    }

    /// When the newest was made of those that had been made before `than`, in Unix seconds; none: there are none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn older(&self, listed: Listed, than: i64) -> Result<Option<i64>, Error> {
        let (path, mut query) = listed.query();
        query.extend([("created[lt]", than.to_string()), ("limit", "1".to_owned())]);
        Ok(self.page(path, &borrowed(&query), &Place::Newest).await?.newest)
    }

    /// Events since `since` (Unix seconds) that may say something about a subscription, the newest first, a hundred at a time.
    /// Those that cannot be read are left out.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn events(&self, since: i64, place: &Place) -> Result<Page<Event>, Error> {
        let page = self.list(Listed::EventsSince(since), place).await?;
        let Page { data, next, newest, oldest } = page;
        Ok(Page { data: data.iter().filter_map(Event::read).collect(), next, newest, oldest })
    }

    async fn list(&self, listed: Listed, place: &Place) -> Result<Page<Value>, Error> {
        let (path, mut query) = listed.query();
        query.push(("limit", PAGE.to_owned()));
        self.page(path, &borrowed(&query), place).await
    }

    pub(super) async fn page(
        &self,
        path: &str,
        query: &[(&str, &str)],
        place: &Place,
    ) -> Result<Page<Value>, Error> {
        let mut answer = match place {
            Place::Newest => self.get(path, query).await?,
            Place::After { id, made } => {
                match self.get(path, &[query, &[("starting_after", id)]].concat()).await {
                    Err(error) if error.is_missing() => {
                        let made = made.map(|at| at.to_string());
                        let by = made.as_ref().map(|at| ("created[lte]", at.as_str()));
                        self.get(path, &[query, by.as_slice()].concat()).await?
                    }
                    answer => answer?,
                }
            }
        }
        .value;
        let Value::Array(data) = answer["data"].take() else { return Err(Error::Unreadable("list")) };
        let last = data.last().and_then(|last| last["id"].as_str()).map(str::to_owned);
        let next = last.filter(|_| answer["has_more"].as_bool().unwrap_or(false));
        let created = |object: Option<&Value>| object?["created"].as_i64();
        let (newest, oldest) = (created(data.first()), created(data.last()));
        Ok(Page { data, next, newest, oldest })
    }
}

impl Page<Value> {
    fn read<T>(self, read: impl Fn(Value) -> Result<T, Error>) -> Result<Page<T>, Error> {
        let Self { data, next, newest, oldest } = self;
        Ok(Page { data: data.into_iter().map(read).collect::<Result<_, _>>()?, next, newest, oldest })
    }
}

fn borrowed<'a>(query: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    query.iter().map(|(name, value)| (*name, value.as_str())).collect()
}
