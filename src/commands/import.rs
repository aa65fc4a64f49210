//! `tenantry users import`: users out of a file, as an operator, with a bar.

use std::{
    io::{self, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tenantry_accounts::{
    Actor, App, Error, ImportId, TenantId,
    idempotency::Once,
    imports::{self as house, Format, Import as State, Options, Step},
    users::Role,
};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{
    Result,
    people::{self, Failed},
    tenants,
};
use crate::{
    api::import_report::{ReportFormat, ReportRow},
    config::Config,
    imports::{self, Columns, Progress, Refused, Wanted},
};

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(false))]
pub(super) struct Import {
    /// The tenant's slug or id
    #[arg(long, value_name = "SLUG")]
    tenant: String,
    /// Rows with a header (CSV), or a JSON object a line; `-` is standard input
    #[arg(group = "what")]
    file: Option<PathBuf>,
    /// How the file is written; default: by its name
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// Only say what would become of each row
    #[arg(long)]
    dry_run: bool,
    /// Which columns of the file are which fields: email:mail,name:full_name; all others are passed over
    #[arg(long, value_name = "OURS:THEIRS,...")]
    columns: Option<Columns>,
    /// Of rows that name none
    #[arg(long, value_enum, default_value_t = super::users::RoleName::User)]
    role: super::users::RoleName,
    /// Mail each new user a link to choose a password, or, where a hash came along, to verify the address
    #[arg(long)]
    invite: bool,
    /// Leave the work to the workers, and do not wait for it
    #[arg(long)]
    no_wait: bool,
    /// Write what became of each row to this file; CSV if it is named so, else a JSON object a line
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Go on with an import that was stopped, or watch one
    #[arg(long, group = "what", value_name = "ID")]
    resume: Option<ImportId>,
    /// Stop an import, or forget one that has ended
    #[arg(long, group = "what", value_name = "ID")]
    cancel: Option<ImportId>,
    /// How often to say how far it is, where the output is no terminal
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    every: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    Csv,
    Ndjson,
}

impl Import {
    pub(super) async fn run(self, app: App, config: &Config, json: bool) -> Result {
        let (tenant, actor) = tenants::open(&app, &self.tenant).await?;
        if let Some(id) = self.cancel {
            house::delete(&app, actor, id).await.map_err(|error| self.wrong(&error))?;
            eprintln!("import {id} is stopped, or forgotten if it had ended; users who were made stay");
            return Ok(());
        }
        let mut stop = Stop::new()?;
        let id = match (&self.file, self.resume) {
            (Some(file), _) => self.upload(&app, actor, config, file, &mut stop).await?,
            (None, Some(id)) => id,
            (None, None) => return Err("FILE: names nothing".into()),
        };
        if self.no_wait {
            eprintln!("import {id} waits for the workers; watch it with --resume {id}");
            return print(&house::get(&app, actor, id).await.map_err(|error| self.wrong(&error))?, json);
        }
        let ended = self.work(&app, tenant, id, &mut stop).await?;
        if let Some(file) = &self.report {
            report(&app, actor, id, file).await?;
        }
        print(&ended, json)?;
        match (ended.state, ended.failed) {
            (house::State::Done, 0) => Ok(()),
            (house::State::Done, failed) => Err(format!(
                "{} rows were not imported; --resume {id} --report FILE says why",
                HumanCount(failed.unsigned_abs().into())
            )
            .into()),
            (state, _) => Err(format!(
                "the import is {}: {}",
                state.as_str(),
                ended.reason.as_deref().unwrap_or("by somebody")
            )
            .into()),
        }
    }

    /// Stages the rows of a file.
    async fn upload(
        &self,
        app: &App,
        actor: Actor,
        config: &Config,
        file: &Path,
        stop: &mut Stop,
    ) -> std::result::Result<ImportId, Failed> {
        let options = Options { format: self.format(file)?, dry_run: self.dry_run, invite: self.invite };
        let role = Role::from(self.role);
        let wanted = Wanted { options, role, columns: self.columns.clone(), most: config.import_max_bytes };
        let (source, length) = open(file).await.map_err(|error| format!("{}: {error}", file.display()))?;
        if length.is_some_and(|length| length > config.import_max_bytes) {
            return Err(format!("{}: {}", file.display(), Refused::TooLarge).into());
        }
        let mut shown = Shown::new(self.every, length)?;
        // The file ends, and signals do not.
        let file_ends = stream::once(std::future::ready(None));
        let bytes =
            stream::select(source.map(Some).chain(file_ends), stop.signalled().map(|error| Some(Err(error))));
        let bytes = bytes.scan((), |(), chunk| std::future::ready(chunk));
        let received = imports::receive(app, actor, wanted, bytes, |progress| shown.received(progress)).await;
        drop(shown);
        let id =
            received.map_err(|refused| format!("{}: {refused}; nothing was imported", file.display()))?.id;
        let finished = house::finish(app, actor, id, Once::unnamed()).await;
        finished.map_err(|error| self.wrong(&error))?;
        Ok(id)
    }

    fn format(&self, file: &Path) -> std::result::Result<Format, Failed> {
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match (self.format, extension.to_ascii_lowercase().as_str()) {
            (Some(FormatName::Csv), _) | (None, "csv") => Ok(Format::Csv),
            (Some(FormatName::Ndjson), _) | (None, "ndjson" | "jsonl") => Ok(Format::Ndjson),
            (None, _) => Err("--format: the name of the file does not tell; say csv or ndjson".into()),
        }
    }

    /// Goes on with an import to its end, beside the workers: whoever is free does the next batch.
    async fn work(
        &self,
        app: &App,
        tenant: TenantId,
        id: ImportId,
        stop: &mut Stop,
    ) -> std::result::Result<State, Failed> {
        let mut shown = Shown::new(self.every, None)?;
        loop {
            let step = tokio::select! {
                step = house::step(app, tenant, id) => step,
                () = stop.wait() => return Err(self.left(id, "stopped")),
            };
            match step {
                Ok(Step::Moved(import)) => shown.worked(&import),
                Ok(Step::Busy(import)) => {
                    shown.worked(&import);
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(200)) => {}
                        () = stop.wait() => return Err(self.left(id, "stopped")),
                    }
                }
                Ok(Step::Ended(import)) => return Ok(import),
                Ok(Step::Gone) => return Err(self.wrong(&Error::NoImport)),
                Err(error) => return Err(self.left(id, &crate::error::sources(&error))),
            }
        }
    }

    /// What was under way is undone; workers go on.
    fn left(&self, id: ImportId, why: &str) -> Failed {
        format!(
            "{why}; workers go on with import {id}. Watch it with `tenantry users import --tenant {tenant} --resume {id}`, stop it \
             with `--cancel {id}`",
            tenant = self.tenant
        )
        .into()
    }

    fn wrong(&self, error: &Error) -> Failed {
        match error {
            Error::NoImport => format!("tenant {:?} has no such import, or no more", self.tenant).into(),
            Error::TooManyImports => {
                "too many imports are under way or kept; wait, or remove some with --cancel".into()
            }
            error => people::said(error),
        }
    }
}

/// Ctrl-C and SIGTERM.
struct Stop([Signal; 2]);

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]))
    }

    async fn wait(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
    }

    /// An error as soon as somebody says so.
    fn signalled(&mut self) -> impl Stream<Item = io::Error> {
        stream::once(async {
            self.wait().await;
            io::Error::new(io::ErrorKind::Interrupted, "stopped")
        })
    }
}

/// What is in a file, and how many bytes that are if it is known.
async fn open(file: &Path) -> io::Result<(BoxStream<'static, io::Result<Bytes>>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((from_stdin().boxed(), None));
    }
    let file = tokio::fs::File::open(file).await?;
    let about = file.metadata().await?;
    Ok((chunks(file).boxed(), about.is_file().then_some(about.len())))
}

/// Its bytes, and then none.
fn chunks(file: tokio::fs::File) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(file, async |mut file| {
        let mut chunk = BytesMut::with_capacity(64 * 1024);
        let read = file.read_buf(&mut chunk).await?;
        Ok((read > 0).then(|| (chunk.freeze(), file)))
    })
}

/// By a thread of its own: the runtime would not end before somebody writes into the pipe or closes it.
fn from_stdin() -> impl Stream<Item = io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut chunk = vec![0; 64 * 1024];
            let read = stdin.read(&mut chunk);
            let is_last = !matches!(read, Ok(1..));
            let chunk = read.map(|length| Bytes::copy_from_slice(&chunk[..length]));
            if matches!(&chunk, Ok(chunk) if chunk.is_empty())
                || sender.blocking_send(chunk).is_err()
                || is_last
            {
                return;
            }
        }
    });
    stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|chunk| (chunk, receiver)))
}

/// Where it is shown how far it is.
struct Shown {
    bar: ProgressBar,
    /// Elsewhere than on a terminal: a line now and then.
    every: Option<Duration>,
    last: Instant,
}

impl Shown {
    fn new(every: Duration, length: Option<u64>) -> std::result::Result<Self, Failed> {
        let is_terminal = io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{spinner} [{bar:30}] {msg}")?.progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(length.unwrap_or(1_000)), target).with_style(style);
        Ok(Self { bar, every: (!is_terminal).then_some(every), last: Instant::now() })
    }

    fn received(&mut self, progress: Progress) {
        self.bar.set_position(progress.bytes);
        self.say(format!("{} rows received", HumanCount(progress.rows.unsigned_abs().into())));
    }

    fn worked(&mut self, import: &State) {
        let share = f64::from(import.done) / f64::from(import.total.max(1));
        self.bar.set_position((share * 1_000.0) as u64);
        let [done, total] = [import.done, import.total].map(|n| HumanCount(n.unsigned_abs().into()));
        let mut text = format!("{done} of {total} rows");
        if let Some(rate) = import.rate {
            text += &format!(", {} a second", HumanCount(rate as u64));
        }
        if let Some(left) = import.eta_seconds {
            text += &format!(", about {} left", HumanDuration(Duration::from_secs_f64(left.clamp(0.0, 1e9))));
        }
        self.say(text);
    }

    fn say(&mut self, text: String) {
        match self.every {
            Some(every) if self.last.elapsed() >= every => {
                self.last = Instant::now();
                eprintln!("{text}");
            }
            Some(_) => {}
            None => self.bar.set_message(text),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn print(import: &State, json: bool) -> Result {
    if json {
        println!("{}", serde_json::to_string(import)?);
        return Ok(());
    }
    let [total, created, skipped, failed] = [import.total, import.created, import.skipped, import.failed]
        .map(|n| HumanCount(n.unsigned_abs().into()));
    let made = if import.dry_run { "would be made" } else { "made" };
    println!("import {}: {}", import.id, import.state.as_str());
    println!("{total} rows: {created} users {made}, {skipped} addresses skipped, {failed} rows failed");
    Ok(())
}

/// Writes what became of each row.
async fn report(app: &App, actor: Actor, id: ImportId, file: &Path) -> Result {
    let is_csv = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let format = if is_csv { ReportFormat::Csv } else { ReportFormat::Ndjson };
    let failed = |error: io::Error| format!("{}: {error}", file.display());
    let mut out = io::BufWriter::new(std::fs::File::create(file).map_err(failed)?);
    let (mut text, mut last) = (vec![], 0);
    format.begin(&mut text);
    loop {
        out.write_all(&text).map_err(failed)?;
        text.clear();
        let rows = house::report(app, actor, id, last).await.map_err(|error| people::said(&error))?;
        let Some(end) = rows.last() else { break };
        last = end.number;
        rows.into_iter().for_each(|row| ReportRow::from(row).write(format, &mut text));
    }
    Ok(out.flush().map_err(failed)?)
}
