//! What was promised, what was seen, and whether the one is the other.

use std::fmt::Write;

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    fault: &'static str,
    promise: &'static str,
    seen: String,
    holds: bool,
}

impl Report {
    /// Judges a promise, and says so at once.
    pub(crate) fn judge(&mut self, fault: &'static str, promise: &'static str, holds: bool, seen: String) {
        println!("          {} {promise}: {seen}", if holds { "ok    " } else { "BROKEN" });
        self.rows.push(Row { fault, promise, seen, holds });
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn broken(&self) -> usize {
        self.rows.iter().filter(|row| !row.holds).count()
    }

    pub(crate) fn table(&self) -> String {
        let mut table = String::from("| fault | promise | seen | |\n|---|---|---|---|\n");
        for Row { fault, promise, seen, holds } in &self.rows {
            let holds = if *holds { "holds" } else { "**broken**" };
            // Writing to a string does not fail.
            let _ = writeln!(table, "| {fault} | {promise} | {seen} | {holds} |");
        }
        table
    }
}
