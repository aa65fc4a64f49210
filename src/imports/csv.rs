//! Comma-separated values with a header (RFC 4180): cells may be in quotes and go over lines, lines may end in CRLF.

use csv_core::ReadRecordResult;
use serde_json::{Map, Value};
use tenantry_accounts::imports::Sent;

use super::{
    BOM, Columns, LONGEST_ROW, Refused,
    columns::{Layout, layout},
    row::Rows,
    too_long,
};
use crate::{api::body::wrong, error::FieldError};

/// How many cells a row may have.
const MOST_CELLS: usize = 256;

pub(super) struct Reader {
    rows: Rows,
    columns: Option<Columns>,
    /// None: the header has not come yet.
    layout: Option<Layout>,
    core: csv_core::Reader,
    /// The first bytes, until it is known whether there is a mark before the text.
    start: Option<Vec<u8>>,
    /// The cells of the row that has begun, one after the other, and where each ends.
    cells: Vec<u8>,
    ends: Vec<usize>,
    /// How much of them is used.
    used: (usize, usize),
    fault: Option<FieldError>,
    /// Lines that have ended, and whether one has ended just now.
    lines: i32,
    at_line_end: bool,
}

impl Reader {
    pub(super) fn new(rows: Rows, columns: Option<Columns>) -> Self {
        Self {
            rows,
            columns,
            layout: None,
            core: csv_core::Reader::new(),
            start: Some(vec![]),
            cells: vec![0; LONGEST_ROW],
            ends: vec![0; MOST_CELLS],
            used: (0, 0),
            fault: None,
            lines: 0,
            at_line_end: false,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8], sent: &mut Vec<Sent>) -> Result<(), Refused> {
        let Some(mut start) = self.start.take() else { return self.go_on(bytes, sent) };
        start.extend_from_slice(bytes);
        if start.len() < BOM.len() {
            self.start = Some(start);
            return Ok(());
        }
        self.go_on(start.strip_prefix(BOM).unwrap_or(&start), sent)
    }

    pub(super) fn end(&mut self, sent: &mut Vec<Sent>) -> Result<(), Refused> {
        if let Some(start) = self.start.take() {
            self.go_on(&start, sent)?;
        }
        self.read(&[], sent)
    }

    fn go_on(&mut self, bytes: &[u8], sent: &mut Vec<Sent>) -> Result<(), Refused> {
        if bytes.is_empty() { Ok(()) } else { self.read(bytes, sent) }
    }

    /// No bytes mean that nothing more comes: what has begun ends.
    fn read(&mut self, mut bytes: &[u8], sent: &mut Vec<Sent>) -> Result<(), Refused> {
        let is_end = bytes.is_empty();
        loop {
            let (cells, ends) = self.used;
            let (result, read, written, ended) =
                self.core.read_record(bytes, &mut self.cells[cells..], &mut self.ends[ends..]);
            self.count_lines(&bytes[..read]);
            bytes = &bytes[read..];
            self.used = (cells + written, ends + ended);
            match result {
                ReadRecordResult::InputEmpty | ReadRecordResult::End => return Ok(()),
                ReadRecordResult::OutputFull => self.skip(too_long()),
                ReadRecordResult::OutputEndsFull => {
                    self.skip(wrong("", "wrong_length", "The row has more than 256 cells"));
                }
                ReadRecordResult::Record => self.row(sent)?,
            }
            if bytes.is_empty() && !is_end {
                return Ok(());
            }
        }
    }

    fn count_lines(&mut self, read: &[u8]) {
        let ended = read.iter().filter(|byte| **byte == b'\n').count();
        self.lines = self.lines.saturating_add(i32::try_from(ended).unwrap_or(i32::MAX));
        if let Some(last) = read.last() {
            self.at_line_end = *last == b'\n';
        }
    }

    /// Goes over the rest of a row.
    fn skip(&mut self, fault: FieldError) {
        self.fault.get_or_insert(fault);
        self.used = (0, 0);
    }

    fn row(&mut self, sent: &mut Vec<Sent>) -> Result<(), Refused> {
        let (cells, ends) = std::mem::take(&mut self.used);
        let text = &self.cells[..cells];
        let last = self.lines + i32::from(!self.at_line_end);
        let inside = text.iter().filter(|byte| **byte == b'\n').count();
        let line = (last - i32::try_from(inside).unwrap_or(0)).max(1);
        if let Some(fault) = self.fault.take() {
            // Where it began is not known any more.
            let Some(_) = &self.layout else { return Err(Refused::Header(vec![fault])) };
            sent.push(self.rows.next(last.max(1), Err(fault)));
            return Ok(());
        }
        let begins = std::iter::once(0).chain(self.ends[..ends].iter().copied());
        let cells =
            begins.zip(&self.ends[..ends]).map(|(begin, end)| std::str::from_utf8(&text[begin..*end]));
        let cells: Vec<&str> = cells.collect::<Result<_, _>>().map_err(|_| Refused::NotUtf8(line))?;
        match &self.layout {
            None => self.layout = Some(layout(&cells, self.columns.as_ref()).map_err(Refused::Header)?),
            Some(layout) => {
                let fields = fields(layout, &cells);
                sent.push(self.rows.next(line, fields));
            }
        }
        Ok(())
    }
}

/// A cell that is empty is left out.
fn fields(layout: &Layout, cells: &[&str]) -> Result<Map<String, Value>, FieldError> {
    if cells.len() != layout.len() {
        let message = format!("The row has {} cells, and the header {}", cells.len(), layout.len());
        return Err(wrong("", "wrong_length", &message));
    }
    let field = |(field, cell): (&Option<&'static str>, &&str)| match field {
        Some(field) if !cell.is_empty() => Some(((*field).to_owned(), value(field, cell))),
        _ => None,
    };
    Ok(layout.iter().zip(cells).filter_map(field).collect())
}

/// As JSON would have it.
fn value(field: &str, cell: &str) -> Value {
    let is_true = |words: &[&str]| words.iter().any(|word| cell.trim().eq_ignore_ascii_case(word));
    match field {
        "email_verified" | "is_active" if is_true(&["true", "1", "yes"]) => true.into(),
        "email_verified" | "is_active" if is_true(&["false", "0", "no"]) => false.into(),
        "role" => cell.trim().into(),
        _ => cell.into(),
    }
}

#[cfg(test)]
mod tests {
    use tenantry_accounts::users::Role;

    use super::*;

    /// Each row's line, and its name or what is wrong with it; however the bytes are cut.
    fn read(text: &[u8]) -> Result<Vec<(i32, String)>, String> {
        let cut = |size: usize| {
            let (mut reader, mut sent) = (Reader::new(Rows::new(Role::User), None), vec![]);
            for part in text.chunks(size) {
                reader.feed(part, &mut sent).map_err(|refused| refused.to_string())?;
            }
            reader.end(&mut sent).map_err(|refused| refused.to_string())?;
            let told = sent.into_iter().enumerate().map(|(n, row)| {
                assert_eq!(row.number, n as i32 + 1);
                let code = |errors: &Value| errors[0]["code"].as_str().unwrap_or_default().to_owned();
                (
                    row.line,
                    row.content.map_or_else(|errors| code(&errors), |row| row.name.as_str().to_owned()),
                )
            });
            Ok::<_, String>(told.collect::<Vec<_>>())
        };
        let whole = cut(usize::MAX);
        for size in 1..20 {
            assert_eq!(cut(size), whole, "in parts of {size}");
        }
        whole
    }

    fn rows(text: &str) -> Vec<(i32, String)> {
        read(text.as_bytes()).unwrap_or_else(|refused| panic!("{refused}: {text:?}"))
    }

    fn row(line: i32, told: &str) -> (i32, String) {
        (line, told.to_owned())
    }

    #[test]
    fn rows_are_read_however_the_bytes_are_cut() {
        let text = "\u{feff}name,email\r\nAda,a@example.org\r\n\r\n\"Bob, \"\"B\"\"\",b@example.org\r\nC\u{e9}line,c@example.org";
        assert_eq!(rows(text), [row(2, "Ada"), row(4, "Bob, \"B\""), row(5, "C\u{e9}line")]);
        assert_eq!(rows("\"email\",name\na@example.org,Ada\n"), [row(2, "Ada")]);
        assert_eq!(rows("\u{feff}\"email\",name\na@example.org,Ada"), [row(2, "Ada")]);
        assert_eq!(rows("email,name\n"), []);
        assert_eq!(rows("em"[..0].as_ref()), []);
    }

    #[test]
    fn a_wrong_row_says_its_line_and_stops_nothing() {
        let long = "x".repeat(LONGEST_ROW + 1);
        let wide = "x,".repeat(MOST_CELLS + 1);
        let text = format!(
            "email,name\na@example.org,\"over\ntwo\"\nb@example.org\nc@example.org,{long}\n{wide}\nd@example.org,Dora\ne@example.org,Emil,7\nf,Fay\n"
        );
        let told = [
            row(2, "invalid_characters"),
            row(4, "wrong_length"),
            row(5, "too_long"),
            row(6, "wrong_length"),
            row(7, "Dora"),
            row(8, "wrong_length"),
            row(9, "invalid_email"),
        ];
        assert_eq!(rows(&text), told);
        // The rest of the file is one row.
        assert_eq!(rows(&format!("email,name\na@example.org,\"Ada\n{long}\n")).len(), 1);
    }

    #[test]
    fn another_encoding_is_refused_by_its_line() {
        let latin = b"email,name\na@example.org,Ada\nb@example.org,C\xe9line\n";
        assert_eq!(read(latin).unwrap_err(), "line 3 is not UTF-8; save the file as UTF-8");
        // UTF-16
        assert_eq!(read(b"\xff\xfee\0m\0").unwrap_err(), "line 1 is not UTF-8; save the file as UTF-8");
    }
}
