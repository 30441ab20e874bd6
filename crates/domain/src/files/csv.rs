//! Comma-separated text to records, as RFC 4180 has it, strictly.
//!
//! A lenient reader would give a device another device's data after a forgotten quote, so
//! whatever is not clear is a mistake with its line. Cells go into one text with their ends, since
//! a table has millions of them.

/// Cells one after the other, each known by where it ends.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Cells {
    text: Vec<u8>,
    /// A file is far smaller than 4 GiB.
    ends: Vec<u32>,
}

impl Cells {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)? as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        std::str::from_utf8(&self.text[start..end]).ok()
    }

    fn close(&mut self) {
        self.ends.push(self.text.len() as u32);
    }

    /// Back to the first `n` cells.
    pub(super) fn truncate(&mut self, n: usize) {
        self.ends.truncate(n);
        self.text.truncate(self.ends.last().map_or(0, |end| *end as usize));
    }
}

pub(super) struct Reader<'t> {
    rest: &'t [u8],
    /// Of what is read next, from 1.
    line: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) why: &'static str,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text.as_bytes(), line: 1 }
    }

    /// The line of the next record and its cells, appended to `into`; `None` at the end.
    pub(super) fn record(&mut self, into: &mut Cells) -> Option<Result<usize, Malformed>> {
        while let Some(n) = self.line_end() {
            self.pass(n);
        }
        if self.rest.is_empty() {
            return None;
        }
        let line = self.line;
        loop {
            if let Err(why) = self.cell(into) {
                return Some(Err(Malformed { line, why }));
            }
            into.close();
            match (self.rest.first(), self.line_end()) {
                (Some(b','), _) => self.rest = &self.rest[1..],
                (_, Some(n)) => {
                    self.pass(n);
                    return Some(Ok(line));
                }
                _ => return Some(Ok(line)),
            }
        }
    }

    /// After a mistake: on with the next line.
    pub(super) fn skip_line(&mut self) {
        let end = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
    }

    fn line_end(&self) -> Option<usize> {
        match self.rest {
            [b'\n', ..] => Some(1),
            [b'\r', b'\n', ..] => Some(2),
            _ => None,
        }
    }

    fn pass(&mut self, n: usize) {
        self.line += 1;
        self.rest = &self.rest[n..];
    }

    fn cell(&mut self, into: &mut Cells) -> Result<(), &'static str> {
        if self.rest.first() == Some(&b'"') {
            return self.quoted(into);
        }
        let is_end = |at: usize| match self.rest[at] {
            b',' | b'\n' => true,
            b'\r' => self.rest.get(at + 1) == Some(&b'\n'),
            _ => false,
        };
        let end = (0..self.rest.len()).find(|at| is_end(*at)).unwrap_or(self.rest.len());
        let (cell, rest) = self.rest.split_at(end);
        if cell.contains(&b'"') {
            return Err("a quote stands inside a cell: quote the whole cell and double the quote");
        }
        into.text.extend_from_slice(cell);
        self.rest = rest;
        Ok(())
    }

    fn quoted(&mut self, into: &mut Cells) -> Result<(), &'static str> {
        self.rest = &self.rest[1..];
        loop {
            let Some(at) = self.rest.iter().position(|byte| *byte == b'"') else {
                self.rest = &[];
                return Err("a quote is not closed");
            };
            let (text, rest) = self.rest.split_at(at);
            into.text.extend_from_slice(text);
            self.line += text.iter().filter(|byte| **byte == b'\n').count();
            self.rest = &rest[1..];
            match self.rest.first() {
                Some(b'"') => {
                    into.text.push(b'"');
                    self.rest = &self.rest[1..];
                }
                None | Some(b',') => return Ok(()),
                _ if self.line_end().is_some() => return Ok(()),
                _ => return Err("text stands after a closing quote"),
            }
        }
    }
}

/// Appends one cell as a reader takes it back.
pub(super) fn write_cell(out: &mut Vec<u8>, cell: &str) {
    // A record of one empty cell would be a blank line.
    let is_plain = !cell.is_empty() && !cell.contains([',', '"', '\n', '\r']);
    if is_plain {
        out.extend_from_slice(cell.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in cell.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(text: &str) -> Result<Vec<Vec<String>>, Malformed> {
        let mut reader = Reader::new(text);
        let mut records = Vec::new();
        loop {
            let mut cells = Cells::default();
            match reader.record(&mut cells) {
                None => return Ok(records),
                Some(Err(malformed)) => return Err(malformed),
                Some(Ok(_)) => records
                    .push((0..cells.len()).map(|i| cells.get(i).unwrap().to_owned()).collect()),
            }
        }
    }

    #[test]
    fn quotes_hold_commas_lines_and_quotes() {
        let read = records("a,b\r\n\"x,\ny\",\"say \"\"hi\"\"\"\n\n,\n").unwrap();
        assert_eq!(read, [vec!["a", "b"], vec!["x,\ny", "say \"hi\""], vec!["", ""]]);
    }

    #[test]
    fn what_is_not_clear_is_refused_with_its_line() {
        let malformed = |text: &str| records(text).unwrap_err();
        assert_eq!(malformed("a\n\"b").line, 2);
        assert!(malformed("a\n\"b").why.contains("not closed"));
        assert!(malformed("a\n\"b\"c\n").why.contains("after a closing quote"));
        assert_eq!(malformed("\"1\n2\"\nb\"c\n").line, 3);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            rows in proptest::collection::vec(proptest::collection::vec("[a,\"\r\n é]{0,6}", 3), 0..5)
        ) {
            let mut text = Vec::new();
            for row in &rows {
                for (i, cell) in row.iter().enumerate() {
                    text.extend_from_slice(if i == 0 { b"" } else { b"," });
                    write_cell(&mut text, cell);
                }
                text.push(b'\n');
            }
            prop_assert_eq!(records(std::str::from_utf8(&text).unwrap()).unwrap(), rows);
        }

        #[test]
        fn any_text_reads_or_is_refused(text in "[\\PC\",\r\n]{0,80}") {
            let _ = records(&text);
        }
    }
}
