//! Requests at a rate that does not depend on the answers. wrk waits for an answer before it asks again, and so is as slow as
//! what it measures: it would not see a queue.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};

use crate::{
    Result,
    connection::{Answer, Connection},
    servers::Database,
};

/// Longer than the service takes for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request.
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) token: String,
    pub(crate) body: String,
    /// Whole lines.
    pub(crate) header: String,
}

impl Ask {
    pub(crate) fn get(path: String, token: &str) -> Self {
        Self { method: "GET", path, token: token.to_owned(), body: String::new(), header: String::new() }
    }

    pub(crate) fn send(method: &'static str, path: &str, token: &str, body: &serde_json::Value) -> Self {
        Self { method, body: body.to_string(), ..Self::get(path.to_owned(), token) }
    }
}

/// One answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// When it was due, from the beginning on.
    pub(crate) due: Duration,
    /// From when the request was due. Only what the timer of the client was late is taken off.
    pub(crate) after: Duration,
    /// What the timer of the client was late.
    pub(crate) late: Duration,
    /// None: there was none.
    pub(crate) status: Option<u16>,
    pub(crate) retry_after: bool,
}

/// Look-ups of a thousand users in turn, so few that each is in memory soon.
pub(crate) fn look_ups(
    database: &Database,
    token: &str,
) -> impl Fn(u64) -> Ask + Clone + Send + Sync + 'static {
    let ids: Vec<_> = database.users.iter().take(1_000).map(|user| user.id).collect();
    let token = token.to_owned();
    move |n| {
        let id = ids[usize::try_from(n).unwrap_or_default() % ids.len()];
        Ask::get(format!("/api/v1/users/{id}"), &token)
    }
}

/// Asks `rate` times a second, over as many connections as are needed and `connections` at most. When all wait for answers,
/// the next requests are late, which counts as their time.
pub(crate) async fn ask(
    address: SocketAddr,
    rate: f64,
    time: Duration,
    connections: usize,
    next: impl Fn(u64) -> Ask + Send + Sync + 'static,
) -> Result<Vec<Answered>> {
    let (next, tickets) = (Arc::new(next), Arc::new(AtomicU64::new(0)));
    let last = (rate * time.as_secs_f64()) as u64;
    let start = Instant::now() + Duration::from_millis(20);
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (next, tickets) = (next.clone(), tickets.clone());
        clients.spawn(async move {
            let (mut connection, mut answers) = (Connection::new(address), vec![]);
            loop {
                let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                if ticket >= last {
                    return answers;
                }
                let due = start + Duration::from_secs_f64(ticket as f64 / rate);
                let free = Instant::now();
                sleep_until(due.into()).await;
                let from = if free > due { due } else { Instant::now() };
                let late = from.saturating_duration_since(due);
                let answer = answer(&mut connection, next(ticket)).await;
                answers.push(Answered {
                    due: due - start,
                    after: from.elapsed(),
                    late,
                    status: answer.as_ref().map(|answer| answer.status),
                    retry_after: answer.is_some_and(|answer| answer.retry_after.is_some()),
                });
            }
        });
    }
    let mut answers = vec![];
    while let Some(ended) = clients.join_next().await {
        answers.extend(ended?);
    }
    Ok(answers)
}

async fn answer(connection: &mut Connection, ask: Ask) -> Option<Answer> {
    let Ask { method, path, token, body, header } = ask;
    timeout(PATIENCE, connection.ask_with(method, &path, &token, &body, &header)).await.ok()?.ok()
}

/// Who is let run first where several want a processor. On a machine of their own, clients would wait neither for the service
/// nor for one another, and the service not for them: this comes as near to that as one machine can.
#[derive(Clone, Copy)]
pub(crate) enum Turn {
    /// Before all others; as root alone, else as anybody.
    First,
    /// After the service.
    Last,
}

impl Turn {
    /// Puts this thread there.
    fn take(self) -> rustix::io::Result<()> {
        let nice = match self {
            Self::First => -20,
            Self::Last => 10,
        };
        rustix::process::nice(nice).map(drop)
    }

    /// Whether one may be first.
    pub(crate) fn can_be_first() -> bool {
        std::thread::spawn(|| Self::First.take().is_ok()).join().unwrap_or(false)
    }
}

/// As [`ask`], from a thread and a runtime of its own: what others ask at the same time does not delay it in this program.
pub(crate) async fn ask_apart(
    turn: Turn,
    address: SocketAddr,
    rate: f64,
    time: Duration,
    connections: usize,
    next: impl Fn(u64) -> Ask + Send + Sync + 'static,
) -> Result<Vec<Answered>> {
    let apart = move || {
        let _ = turn.take();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(ask(address, rate, time, connections, next))
    };
    let (done, told) = tokio::sync::oneshot::channel();
    // A thread of its own, since it stays where it was put.
    std::thread::Builder::new().name("apart".into()).spawn(move || done.send(apart()))?;
    told.await?
}

/// Asks again as soon as it is answered, over so many connections: how much can be done at all. Returns how many were
/// answered with 200 or 201, and in what time.
pub(crate) async fn as_fast_as_can_be(
    address: SocketAddr,
    time: Duration,
    connections: usize,
    next: impl Fn(u64) -> Ask + Send + Sync + 'static,
) -> Result<(u64, Duration)> {
    let (next, tickets, start) = (Arc::new(next), Arc::new(AtomicU64::new(0)), Instant::now());
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (next, tickets) = (next.clone(), tickets.clone());
        clients.spawn(async move {
            let (mut connection, mut done, mut wrong) = (Connection::new(address), 0, 0_u64);
            while start.elapsed() < time {
                let answer = answer(&mut connection, next(tickets.fetch_add(1, Ordering::Relaxed))).await;
                let is_done = answer.is_some_and(|answer| [200, 201].contains(&answer.status));
                done += u64::from(is_done);
                wrong += u64::from(!is_done);
            }
            (done, wrong)
        });
    }
    let (mut done, mut wrong) = (0, 0);
    while let Some(ended) = clients.join_next().await {
        let ended = ended?;
        done += ended.0;
        wrong += ended.1;
    }
    // They would be in the cost and not among those that it is divided by.
    if wrong > 0 {
        return Err(
            format!("{wrong} of {} requests were not answered as they should be", done + wrong).into()
        );
    }
    Ok((done, start.elapsed()))
}

/// The milliseconds within which such a part was answered.
pub(crate) fn percentile(answers: &[Answered], part: f64) -> f64 {
    let mut times: Vec<_> = answers.iter().map(|answer| answer.after.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1);
    times.get(((times.len() as f64 * part) as usize).min(last)).copied().unwrap_or(f64::NAN)
}
