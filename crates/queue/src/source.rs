use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::{Task, builder::TaskBuilder, task_id::TaskId},
    worker::context::WorkerContext,
};
use tokio::sync::mpsc;
use tower::layer::util::Identity;

use crate::Leased;

/// The queue as apalis sees it: a stream of jobs that are leased already. Fetching and heartbeat are tasks of their
/// own, so nothing apalis does or fails to do can hold them up; a restarted worker reads on from the same stream.
#[derive(Clone)]
pub(crate) struct Source {
    jobs: Arc<Mutex<mpsc::Receiver<Leased>>>,
}

impl Source {
    pub(crate) fn new(jobs: mpsc::Receiver<Leased>) -> Self {
        Self { jobs: Arc::new(Mutex::new(jobs)) }
    }
}

impl Backend for Source {
    type Task = Task<Leased>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Leased>, Infallible>>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.poll_recv(cx).map(|job| job.map(|job| Ok(task(job))))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Source {
    type Args = Leased;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// apalis counts an attempt when it starts, the database when it leases.
fn task(job: Leased) -> Task<Leased> {
    TaskBuilder::new(job.clone())
        .task_id(TaskId::from_string(job.id.to_string()))
        .attempt(job.attempt.saturating_sub(1) as usize)
        .max_attempts(job.max_attempts as usize)
        .build()
}
