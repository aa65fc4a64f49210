//! Comma-separated values that we write (RFC 4180), safe to be opened by a spreadsheet.

/// Ends a line with these cells to `out`.
pub(crate) fn line<'a>(out: &mut Vec<u8>, cells: impl IntoIterator<Item = &'a str>) {
    for (n, cell) in cells.into_iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write(out, cell);
    }
    out.extend_from_slice(b"\r\n");
}

/// What would begin a formula is made text by an apostrophe, as OWASP has it ("CSV injection"): a spreadsheet would work it out,
/// and it may come from anybody whose name or address is in it.
fn write(out: &mut Vec<u8>, cell: &str) {
    let guard = if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { "'" } else { "" };
    if !cell.contains(['"', ',', '\r', '\n']) && !cell.starts_with(' ') && !cell.ends_with(' ') {
        out.extend_from_slice(guard.as_bytes());
        out.extend_from_slice(cell.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(guard.as_bytes());
    out.extend_from_slice(cell.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(cells: &[&str]) -> String {
        let mut out = vec![];
        line(&mut out, cells.iter().copied());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn cells_with_commas_quotes_and_ends_of_lines_are_quoted() {
        assert_eq!(
            written(&["a", "", "b,c", "\"d\"", "e\nf", "Zoë"]),
            "a,,\"b,c\",\"\"\"d\"\"\",\"e\nf\",Zoë\r\n"
        );
    }

    #[test]
    fn no_cell_begins_like_a_formula() {
        for (cell, safe) in [
            ("=1+1", "'=1+1\r\n"),
            ("+tag@example.org", "'+tag@example.org\r\n"),
            ("-1", "'-1\r\n"),
            ("@SUM(A1)", "'@SUM(A1)\r\n"),
            ("\t=1", "'\t=1\r\n"),
            ("\r=1", "\"'\r=1\"\r\n"),
            ("=HYPERLINK(\"x\",\"y\")", "\"'=HYPERLINK(\"\"x\"\",\"\"y\"\")\"\r\n"),
            ("a=1", "a=1\r\n"),
        ] {
            assert_eq!(written(&[cell]), safe);
        }
    }
}
