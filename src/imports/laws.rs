//! Rows of imports: the same however the bytes are cut, and what was written is read.

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};
use tenantry_accounts::{
    imports::{Format, Sent},
    users::Role,
};

use super::{Columns, Reader, Refused, Rows, csv, ndjson};

/// CSV and JSON lines.
pub fn rows(data: &[u8]) {
    let _ = check(Unstructured::new(data));
}

fn check(mut u: Unstructured<'_>) -> Result<()> {
    let (cut, names): (u8, Vec<String>) = (u.arbitrary()?, u.arbitrary()?);
    written(&names, cut.into());
    let bytes = u.take_rest();
    for format in [Format::Csv, Format::Ndjson] {
        cut_anywhere(format, bytes, usize::from(cut).max(1));
        let header: &[u8] = if matches!(format, Format::Csv) { b"email,name\n" } else { b"" };
        cut_anywhere(format, &[header, bytes].concat(), usize::from(cut).max(1));
    }
    mapping(&String::from_utf8_lossy(bytes));
    Ok(())
}

fn read(format: Format, bytes: &[u8], size: usize) -> std::result::Result<Vec<Sent>, Refused> {
    let rows = Rows::new(Role::User);
    let mut reader = match format {
        Format::Csv => Reader::Csv(Box::new(csv::Reader::new(rows, None))),
        Format::Ndjson => Reader::Ndjson(ndjson::Reader::new(rows, None)),
    };
    let mut sent = vec![];
    for part in bytes.chunks(size) {
        reader.feed(part, &mut sent)?;
    }
    reader.end(&mut sent)?;
    Ok(sent)
}

/// What becomes of rows, without what cannot be compared.
fn told(
    read: std::result::Result<Vec<Sent>, Refused>,
) -> std::result::Result<Vec<(i32, i32, String)>, String> {
    let row = |sent: Sent| {
        let content = sent.content.map(|row| format!("{} {}", row.email.as_str(), row.name.as_str()));
        (sent.number, sent.line, content.unwrap_or_else(|errors: Value| errors.to_string()))
    };
    read.map(|sent| sent.into_iter().map(row).collect()).map_err(|refused| refused.to_string())
}

fn cut_anywhere(format: Format, bytes: &[u8], size: usize) {
    let whole = told(read(format, bytes, usize::MAX));
    assert_eq!(told(read(format, bytes, size)), whole, "in parts of {size}");
    for (n, (number, line, _)) in whole.iter().flatten().enumerate() {
        assert_eq!(*number, n as i32 + 1);
        assert!(
            *line >= 1 && *line as usize <= bytes.iter().filter(|byte| b"\r\n".contains(byte)).count() + 1
        );
    }
}

/// Names that are valid are read as they were written, quotes, commas, line ends and all.
fn written(names: &[String], cut: usize) {
    use tenantry_accounts::fields::{FromText, Name};
    let names: Vec<_> = names.iter().filter_map(|name| Name::from_text(name).ok()).take(20).collect();
    let (mut csv, mut lines) = ("email,name\r\n".to_owned(), String::new());
    for (n, name) in names.iter().enumerate() {
        csv += &format!("u{n}@example.org,\"{}\"\r\n", name.as_str().replace('"', "\"\""));
        lines += &format!("{}\n", json!({"email": format!("u{n}@example.org"), "name": name.as_str()}));
    }
    for (format, text) in [(Format::Csv, csv), (Format::Ndjson, lines)] {
        let Ok(sent) = read(format, text.as_bytes(), cut.max(1)) else { panic!("refused: {text:?}") };
        let read: Vec<_> = sent.into_iter().map(|row| row.content.ok().map(|row| row.name)).collect();
        assert_eq!(read, names.iter().cloned().map(Some).collect::<Vec<_>>(), "{text:?}");
    }
}

/// A mapping of columns is the same with blanks around its commas, read or refused.
fn mapping(text: &str) {
    assert_eq!(text.parse::<Columns>(), text.replace(',', " , ").parse(), "{text:?}");
}
