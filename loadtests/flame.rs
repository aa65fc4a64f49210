//! Where the processor time of a look-up goes, the kernel's included, beside a bare server: `make flame`. perf takes samples, inferno
//! draws them as flame graphs. What a function itself takes is told in microseconds of a request.

use std::{
    collections::HashMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use crate::{
    Result, Settings,
    cases::{self, Case},
    process::{Process, free_address, tool},
    provenance::provenance,
    servers::Servers,
    wrk::{self, Order, Requests},
};

/// Who is in the database, and who of them is asked for.
const USERS: [usize; 2] = [20_000, 5_000];
/// Samples of a thread in a second of its processor time: no multiple of what the system does at regular times.
const FREQUENCY: &str = "499";
/// How much of a stack is kept of each, in bytes. The deepest of a look-up are some 20,000.
const STACK: &str = "dwarf,32768";
/// How many functions are told of.
const SHOWN: usize = 30;
/// Of the width of a graph, in percent: what is narrower is left out.
const NARROW: &str = "0.15";

pub(crate) fn check() -> Result<()> {
    tool("inferno", "inferno-flamegraph", "flame")?;
    match std::process::Command::new("perf").arg("--version").output() {
        Ok(_) => Ok(()),
        Err(_) => Err("perf is missing: install it (apt-get install linux-perf)".into()),
    }
}

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<String> {
    let mut page = format!(
        "# where the processor time of a look-up goes, beside a bare server, in microseconds of a request\n# {}\n\
         # {} s on {} connections, {} of {} users; perf takes {FREQUENCY} samples a second of each thread\n",
        provenance(),
        settings.seconds,
        settings.connections,
        USERS[1],
        settings.users.unwrap_or(USERS[0] as u64),
    );
    let levels = cases::levels(settings, servers, USERS).await?;
    for ((bare, ours), graph) in levels.iter().zip(["flame-process.svg", "flame-redis.svg"]) {
        eprintln!("{}", bare.name);
        let base = sampled(bare, settings, servers).await?;
        eprintln!("{}", ours.name);
        let seen = sampled(ours, settings, servers).await?;
        if let Some(folder) = &settings.plots {
            draw(&seen.folded, &ours.name, &folder.join(graph)).await?;
        }
        page += &compared(ours, &seen, &base)?;
    }
    Ok(page)
}

/// What was seen of a server.
struct Sampled {
    /// Stacks, and how often each was seen: a line each, frames from the outermost on.
    folded: String,
    /// Microseconds of processor time that a request took.
    request: f64,
}

impl Sampled {
    /// Microseconds of a request that functions take themselves.
    fn functions(&self) -> Result<HashMap<&str, f64>> {
        let (mut functions, mut samples) = (HashMap::new(), 0.0);
        for line in self.folded.lines() {
            let (stack, count) = line.rsplit_once(' ').ok_or("a line without a count")?;
            let count: f64 = count.parse()?;
            let function = stack.rsplit(';').next().unwrap_or_default();
            *functions.entry(function).or_insert(0.0) += count;
            samples += count;
        }
        functions.values_mut().for_each(|count| *count *= self.request / samples);
        Ok(functions)
    }
}

async fn sampled(case: &Case, settings: &Settings, servers: &Servers) -> Result<Sampled> {
    let process = case.start(servers, free_address()?, &[]).await?;
    let send = async |lines: &Path, seconds| {
        let (tokens, lines) = (case.tokens.clone(), lines.to_owned());
        let requests = Requests { tokens, lines, order: Order::Random, pause: Duration::ZERO };
        wrk::run(process.address, &requests, settings.connections, Duration::from_secs(seconds)).await
    };
    send(case.first(), 2).await?;
    let before = process.cpu()?;
    let (samples, seen) =
        tokio::join!(record(&process, servers, settings.seconds), send(&case.requests, settings.seconds));
    let (samples, seen) = (samples?, seen?);
    let request = (process.cpu()? - before) * 1e6 / seen.requests;
    process.stop().await?;
    let stacks =
        output(Command::new("perf").args(["script", "--no-inline", "--input"]).arg(&samples)).await?;
    let text = samples.with_extension("stacks");
    fs::write(&text, stacks)?;
    let folded = output(Command::new(tool("inferno", "inferno-collapse-perf", "flame")?).arg(&text)).await?;
    Ok(Sampled { folded: String::from_utf8(folded)?, request })
}

/// Samples of a process; the file that they are in.
async fn record(process: &Process, servers: &Servers, seconds: u64) -> Result<PathBuf> {
    let samples = servers.folder.join("perf.data");
    let pid = process.pid()?.to_string();
    let mut command = Command::new("perf");
    command.args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY, "--call-graph", STACK]);
    command.args(["--pid", &pid, "--output"]).arg(&samples).args(["--", "sleep", &seconds.to_string()]);
    output(&mut command).await?;
    Ok(samples)
}

async fn draw(folded: &str, name: &str, file: &Path) -> Result<()> {
    let stacks = file.with_extension("folded");
    fs::write(&stacks, folded)?;
    let mut command = Command::new(tool("inferno", "inferno-flamegraph", "flame")?);
    command
        .args(["--title", name, "--minwidth", NARROW, "--countname", "ns", "--deterministic"])
        .arg(&stacks);
    let drawn = output(&mut command).await;
    fs::remove_file(&stacks)?;
    Ok(fs::write(file, drawn?)?)
}

/// A table of what takes more than in the bare server.
fn compared(ours: &Case, seen: &Sampled, base: &Sampled) -> Result<String> {
    let (functions, of_base) = (seen.functions()?, base.functions()?);
    let mut rows: Vec<_> = functions
        .iter()
        .map(|(name, took)| (*name, *took, of_base.get(name).copied().unwrap_or_default()))
        .collect();
    rows.sort_by(|one, other| f64::total_cmp(&(other.1 - other.2), &(one.1 - one.2)));
    let mut page = format!("\n## {}\n{:>8} {:>8} {:>8}\n", ours.name, "ours", "bare", "more");
    let all = [("all of it", seen.request, base.request)];
    for (name, ours, bare) in all.into_iter().chain(rows.into_iter().take(SHOWN)) {
        writeln!(page, "{ours:8.2} {bare:8.2} {:8.2}  {name}", ours - bare)?;
    }
    Ok(page)
}

/// What a command prints.
async fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("{:?}: {}", command.as_std().get_program(), String::from_utf8_lossy(&output.stderr)).into())
}
