//! JSON, an object a line. Blank lines are no rows.

use serde_json::{Map, Value};
use tenantry_accounts::imports::Sent;

use super::{BOM, Columns, LONGEST_ROW, Refused, row::Rows, too_long};
use crate::{
    api::{body::wrong, json::Unique},
    error::FieldError,
};

pub(super) struct Reader {
    rows: Rows,
    columns: Option<Columns>,
    /// Of the line that has begun, and no more than a row may be long.
    line: Vec<u8>,
    is_too_long: bool,
    number: i32,
}

impl Reader {
    pub(super) fn new(rows: Rows, columns: Option<Columns>) -> Self {
        Self { rows, columns, line: vec![], is_too_long: false, number: 1 }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], sent: &mut Vec<Sent>) -> Result<(), Refused> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(&bytes[..end]);
            self.end(sent)?;
            self.number = self.number.saturating_add(1);
            bytes = &bytes[end + 1..];
        }
        self.take(bytes);
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        self.is_too_long |= self.line.len() + bytes.len() > LONGEST_ROW;
        if !self.is_too_long {
            self.line.extend_from_slice(bytes);
        }
    }

    /// What there is of the line is all of it.
    pub(super) fn end(&mut self, sent: &mut Vec<Sent>) -> Result<(), Refused> {
        if std::mem::take(&mut self.is_too_long) {
            sent.push(self.rows.next(self.number, Err(too_long())));
        } else {
            let line = self.line.strip_prefix(BOM).filter(|_| self.number == 1).unwrap_or(&self.line);
            let line = std::str::from_utf8(line).map_err(|_| Refused::NotUtf8(self.number))?;
            if !line.trim().is_empty() {
                sent.push(self.rows.next(self.number, fields(line, self.columns.as_ref())));
            }
        }
        self.line.clear();
        Ok(())
    }
}

fn fields(line: &str, columns: Option<&Columns>) -> Result<Map<String, Value>, FieldError> {
    match serde_json::from_str(line) {
        Ok(Unique(Value::Object(object))) => Ok(match columns {
            Some(columns) => columns.rename(object),
            None => object,
        }),
        Ok(_) => Err(wrong("", "wrong_type", "Must be an object")),
        Err(_) => Err(wrong("", "malformed", "The line is not JSON, or repeats a name")),
    }
}
