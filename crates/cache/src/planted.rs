//! Fail-points and planted bugs, for the history checker (docs/chaos.md) and the test of panics alone: with the feature `planted` a process can be
//! held, stopped or killed at an exact step, and be made to err in one way. Without it nothing of this is in the program.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` breaks the program on purpose: it is for debug builds only");

/// A mistake that the history checker must find, made where it would be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Redis is told after COMMIT only, and then forgets the entry.
    DeleteAfterCommit,
    /// The transaction carries no work for the worker.
    NoOutbox,
    /// A reader may fill whatever happened since its `select`.
    NoLease,
    /// A writer may fill whatever happened since its floor.
    UntokenedWriteThrough,
    /// The local life of an entry counts from when it was stored, not from before it was read.
    TtlFromInsert,
    /// The same for what a writer stores.
    WriteThroughFromInsert,
    /// A flight may be joined after its `select` was sent.
    JoinAnyFlight,
    /// A flight may be joined after Redis has answered it.
    HitKeepsBoarding,
    /// The process holds and shows what it has read without asking the floor.
    HitIgnoresFloor,
    /// An answer of Redis is taken, however long ago it came.
    LateAnswersCount,
    /// Version and body come from two selects.
    TwoSelects,
    /// `X-Min-Version` means nothing.
    MinIgnored,
    /// A floor stays after a rollback.
    FloorOutlivesRollback,
    /// A value from Redis may be older than the node's floor.
    LeaseBelowNodeFloor,
    /// The same in a batch.
    BatchBelowNodeFloor,
    /// What the feed says raises no floor.
    FeedIgnored,
    /// A node answers before its first look at the feed.
    AnswersBlindly,
    /// Whoever a pointer leads to is not asked for the address.
    PointerBelieved,
    /// `If-Match` means nothing.
    IfMatchIgnored,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::DeleteAfterCommit,
        Self::NoOutbox,
        Self::NoLease,
        Self::UntokenedWriteThrough,
        Self::TtlFromInsert,
        Self::WriteThroughFromInsert,
        Self::JoinAnyFlight,
        Self::HitKeepsBoarding,
        Self::HitIgnoresFloor,
        Self::LateAnswersCount,
        Self::TwoSelects,
        Self::MinIgnored,
        Self::FloorOutlivesRollback,
        Self::LeaseBelowNodeFloor,
        Self::BatchBelowNodeFloor,
        Self::FeedIgnored,
        Self::AnswersBlindly,
        Self::PointerBelieved,
        Self::IfMatchIgnored,
    ];

    /// As it is chosen.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}

#[cfg(not(feature = "planted"))]
mod switch {
    /// Whether this bug is planted: no.
    #[inline(always)]
    pub const fn bug(_: super::Bug) -> bool {
        false
    }

    /// A step at which a process may be told to stop: it is not.
    #[inline(always)]
    pub async fn point(_: &'static str) {}
}

#[cfg(feature = "planted")]
mod switch {
    use std::{env, fs, path::PathBuf, process::Command, sync::LazyLock, time::Duration};

    use super::Bug;

    static BUG: LazyLock<Option<Bug>> = LazyLock::new(|| Bug::named(&env::var("PLANTED_BUG").ok()?));
    static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| env::var_os("PLANTED_POINTS").map(Into::into));

    /// Whether `PLANTED_BUG` names this bug.
    pub fn bug(bug: Bug) -> bool {
        *BUG == Some(bug)
    }

    /// A step at which a process may be told to stop. Who wants it to puts a file of the point's name into the folder
    /// `PLANTED_POINTS`. The first that gets there renames it to `NAME.reached` and does what it says: `note` goes on,
    /// `hold` waits until that file is gone, `stop` and `kill` send the whole process SIGSTOP or SIGKILL, `panic` panics.
    pub async fn point(name: &'static str) {
        let Some(folder) = &*FOLDER else { return };
        let reached = folder.join(format!("{name}.reached"));
        if fs::rename(folder.join(name), &reached).is_err() {
            return;
        }
        match fs::read_to_string(&reached).as_deref() {
            Ok("stop") => signal("STOP"),
            Ok("kill") => signal("KILL"),
            Ok("panic") => panic!("planted at {name}"),
            Ok("hold") => {
                while reached.exists() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            _ => {}
        }
    }

    /// By a shell, since std cannot send signals and this package has no unsafe code.
    fn signal(name: &str) {
        let pid = std::process::id().to_string();
        let _ = Command::new("/bin/sh").args(["-c", r#"kill -s "$1" "$2""#, "sh", name, &pid]).status();
    }
}

pub use switch::{bug, point};
