//! Comma-separated values that we write (RFC 4180), safe to be opened by a spreadsheet.

/// Appends a row.
pub(crate) fn row(out: &mut Vec<u8>, cells: &[&str]) {
    for (n, text) in cells.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        cell(out, text);
    }
    out.extend_from_slice(b"\r\n");
}

/// What would begin a formula is made text by an apostrophe, as OWASP has it ("CSV injection"): a spreadsheet would work it out,
/// and it may come from anybody whose name or address is in it.
fn cell(out: &mut Vec<u8>, text: &str) {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let is_quoted = text.contains(['"', ',', '\r', '\n']) || text.starts_with(' ') || text.ends_with(' ');
    if is_quoted {
        out.push(b'"');
    }
    if is_formula {
        out.push(b'\'');
    }
    match is_quoted {
        true => out.extend_from_slice(text.replace('"', "\"\"").as_bytes()),
        false => out.extend_from_slice(text.as_bytes()),
    }
    if is_quoted {
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_where_it_must_be_and_no_formula() {
        let cells =
            ["Ada", "a,b", "say \"hi\"", "=1+1", "+1", "-1", "@x", "\tx", "\rx", "=\"a\",b", " x", "a-b", ""];
        let mut out = vec![];
        row(&mut out, &cells);
        let expected = "Ada,\"a,b\",\"say \"\"hi\"\"\",'=1+1,'+1,'-1,'@x,'\tx,\"'\rx\",\"'=\"\"a\"\",b\",\" x\",a-b,\r\n";
        assert_eq!(String::from_utf8(out), Ok(expected.to_owned()));
    }
}
