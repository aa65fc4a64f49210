//! Wakes workers at once. NOTIFY inside a business transaction would take a lock of the whole cluster at its COMMIT;
//! here each process sends at most one per interval, after the fact. Workers poll anyway, for those who send none.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use futures_util::{StreamExt, stream};
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Config, NoTls};
use tracing::{debug, warn};

/// The least time between two notifications of a process.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long a worker waits before it connects again.
const RECONNECT: Duration = Duration::from_secs(1);

/// Tells workers that jobs have been committed. Cheap to clone; the last clone ends its task.
#[derive(Debug, Clone)]
pub struct Nudge {
    wanted: mpsc::Sender<()>,
}

impl Nudge {
    /// Starts the task that sends, on connections of `pool`, which may go through a pooler. Needs a runtime.
    pub fn start(pool: Pool) -> Self {
        // One place: what is wanted while a notification is under way is one more.
        let (wanted, mut asked) = mpsc::channel(1);
        tokio::spawn(async move {
            while asked.recv().await.is_some() {
                match timeout(Duration::from_secs(1), notify(&pool)).await {
                    Ok(Ok(())) => {}
                    // The poll of the workers finds the jobs.
                    Ok(Err(cause)) => debug!(error = %cause, "a notification was not sent"),
                    Err(_) => debug!("a notification was not sent in time"),
                }
                sleep(INTERVAL).await;
            }
        });
        Self { wanted }
    }

    /// To be called after COMMIT. Does no I/O and never waits.
    pub fn nudge(&self) {
        let _ = self.wanted.try_send(());
    }
}

async fn notify(pool: &Pool) -> Result<(), String> {
    let client = pool.get().await.map_err(|error| error.to_string())?;
    client.batch_execute("notify tenantry_jobs").await.map_err(|error| error.to_string())
}

/// Listens on a connection of its own, for ever, and passes on what it hears.
pub(crate) async fn listen(config: Config, heard: Arc<Notify>) {
    let mut away = false;
    loop {
        match hear(&config, &heard).await {
            Ok(()) => away = false,
            // Said once, not each second.
            Err(cause) if !away => {
                warn!(error = ?cause, "cannot listen for new jobs, polling meanwhile");
                away = true;
            }
            Err(_) => {}
        }
        sleep(RECONNECT).await;
    }
}

/// Until the connection ends; an error if it never began.
async fn hear(config: &Config, heard: &Notify) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) = config.connect(NoTls).await?;
    let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
    let listening = client.batch_execute("listen tenantry_jobs");
    let hearing = async {
        while let Some(Ok(message)) = messages.next().await {
            if matches!(message, AsyncMessage::Notification(_)) {
                heard.notify_one();
            }
        }
    };
    tokio::pin!(hearing);
    tokio::select! {
        done = listening => done?,
        () = &mut hearing => return Ok(()),
    }
    // What was sent before we listened was not heard.
    heard.notify_one();
    hearing.await;
    Ok(())
}
