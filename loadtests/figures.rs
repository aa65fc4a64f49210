//! Figures that are measured once in each round: their medians, and how far the rounds were apart.

use std::fmt;

use crate::{Settings, provenance::provenance};

pub(crate) struct Figures {
    head: String,
    rows: Vec<Row>,
}

struct Row {
    section: &'static str,
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

impl Figures {
    pub(crate) fn new(title: &str, settings: &Settings) -> Self {
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let head = format!(
            "# {title}\n# {}\n# load {command}: {} s a measurement, {} rounds, medians\n",
            provenance(),
            settings.seconds,
            settings.rounds
        );
        Self { head, rows: vec![] }
    }

    pub(crate) fn note(&mut self, note: &str) {
        self.head += &format!("# {note}\n");
    }

    pub(crate) fn add(
        &mut self,
        section: &'static str,
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
    ) {
        let name = name.into();
        match self.rows.iter_mut().find(|row| row.section == section && row.name == name) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row { section, name, unit, values: vec![value] }),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.head)?;
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
        let mut section = "";
        for row in &self.rows {
            if row.section != section {
                section = row.section;
                writeln!(
                    f,
                    "\n## {section}\n{:width$}  {:>10}  {:>10}  {:>10}",
                    "", "median", "least", "most"
                )?;
            }
            let mut sorted = row.values.clone();
            sorted.sort_by(f64::total_cmp);
            let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
            let (median, least, most) = (at(sorted.len() / 2), at(0), at(sorted.len() - 1));
            let digits = if most >= 1000.0 {
                0
            } else if most >= 10.0 {
                1
            } else {
                3
            };
            writeln!(
                f,
                "{:width$}  {median:10.digits$}  {least:10.digits$}  {most:10.digits$}  {}",
                row.name, row.unit
            )?;
        }
        Ok(())
    }
}
