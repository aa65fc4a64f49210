//! Lines on their way to standard error. Whoever says something puts it down and goes on; a thread writes what has come together,
//! so that a thousand requests are few calls to the system.

use std::{
    io::{self, Write},
    sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// So much may wait to be written. Then whoever has more to say waits: no line is lost.
const MOST: usize = 1024 * 1024;
/// How long lines wait for others.
const PAUSE: Duration = Duration::from_millis(5);

static WAITING: LazyLock<Waiting> = LazyLock::new(Waiting::default);

#[derive(Default)]
struct Waiting {
    state: Mutex<State>,
    /// There are lines.
    some: Condvar,
    /// There are none, and nothing is being written.
    none: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    is_writing: bool,
    /// Somebody waits for the end: lines wait for no others.
    is_urgent: bool,
}

/// Starts the thread that writes.
pub(super) fn start() -> io::Result<Lines> {
    thread::Builder::new().name("log".into()).spawn(|| WAITING.write_all())?;
    Ok(Lines)
}

/// Takes a line, its end included.
pub(super) fn add(line: &[u8]) {
    WAITING.add(line);
}

/// Waits until all lines are written.
pub(super) fn flush() {
    let mut state = WAITING.state();
    state.is_urgent = true;
    WAITING.some.notify_one();
    while !state.lines.is_empty() || state.is_writing {
        state = WAITING.none.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    state.is_urgent = false;
}

impl Waiting {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut state = self.state();
        while state.lines.len() >= MOST {
            state = self.none.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.lines.is_empty() {
            self.some.notify_one();
        }
        state.lines.extend_from_slice(line);
    }

    /// Writes whatever comes, for ever.
    fn write_all(&self) {
        let mut taken = Vec::new();
        loop {
            let state = self.state();
            let begun = self.some.wait_while(state, |state| state.lines.is_empty());
            let state = begun.unwrap_or_else(PoisonError::into_inner);
            let more = self.some.wait_timeout_while(state, PAUSE, |state| !state.is_urgent);
            let (mut state, _) = more.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut state.lines, &mut taken);
            state.is_writing = true;
            drop(state);
            // Whoever has closed standard error does not want to hear of it.
            let _ = io::stderr().lock().write_all(&taken);
            taken.clear();
            self.state().is_writing = false;
            self.none.notify_all();
        }
    }
}

/// Takes lines. Each comes in one piece.
#[derive(Clone, Copy)]
pub(super) struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}
