//! A history in a file, a JSON line for each thing that happened, and back.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    Result,
    history::{Committed, Event, Failure, Healed, History, Micros, Nobody, Phase, Read, Write},
};

#[derive(Serialize, Deserialize)]
enum Line {
    Nodes(usize),
    Phase(Phase),
    Event(Event),
    Exit(Micros, String),
    /// By key.
    Key(usize, Committed, Vec<Committed>),
    Write(Write),
    Read(Read),
    Nobody(Nobody),
    Failure(Failure),
    Healed(Healed),
}

pub(crate) fn write(history: &History, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut line = |line: Line| -> Result<()> {
        serde_json::to_writer(&mut file, &line)?;
        Ok(file.write_all(b"\n")?)
    };
    let History { writes, reads, nobodies, failures, events, phases, ledger, rows, healed, exits, nodes } =
        history.clone();
    line(Line::Nodes(nodes))?;
    phases.into_iter().map(Line::Phase).try_for_each(&mut line)?;
    events.into_iter().map(Line::Event).try_for_each(&mut line)?;
    exits.into_iter().map(|(at, exit)| Line::Exit(at, exit)).try_for_each(&mut line)?;
    let keys = rows.into_iter().zip(ledger).enumerate();
    keys.map(|(key, (row, ledger))| Line::Key(key, row, ledger)).try_for_each(&mut line)?;
    writes.into_iter().map(Line::Write).try_for_each(&mut line)?;
    reads.into_iter().map(Line::Read).try_for_each(&mut line)?;
    nobodies.into_iter().map(Line::Nobody).try_for_each(&mut line)?;
    failures.into_iter().map(Line::Failure).try_for_each(&mut line)?;
    healed.into_iter().map(Line::Healed).try_for_each(&mut line)?;
    Ok(file.flush()?)
}

pub(crate) fn read(path: &Path) -> Result<History> {
    let mut history = History::default();
    for (number, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let line = serde_json::from_str(&line?)
            .map_err(|error| format!("{}:{}: {error}", path.display(), number + 1))?;
        match line {
            Line::Nodes(nodes) => history.nodes = nodes,
            Line::Phase(phase) => history.phases.push(phase),
            Line::Event(event) => history.events.push(event),
            Line::Exit(at, exit) => history.exits.push((at, exit)),
            Line::Key(_, row, ledger) => {
                history.rows.push(row);
                history.ledger.push(ledger);
            }
            Line::Write(write) => history.writes.push(write),
            Line::Read(read) => history.reads.push(read),
            Line::Nobody(nobody) => history.nobodies.push(nobody),
            Line::Failure(failure) => history.failures.push(failure),
            Line::Healed(healed) => history.healed.push(healed),
        }
    }
    Ok(history)
}
