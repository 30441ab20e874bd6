//! `rows: users.csv`: row i is device i's.
//!
//! The whole table is read where a run is accepted; an agent reads the slice with the rows of its
//! devices. Invariant: a cell that a slice has is the cell of the whole table.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::csv::{Cells, Malformed, Reader, write_cell};
use super::{Content, File, Slice};

/// More mistakes of one table would only repeat themselves.
const MAX_MISTAKES: usize = 5;
/// Words in a column's name that make it a key or a password.
const SECRET_WORDS: [&str; 10] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "key",
    "apikey",
    "token",
    "credential",
    "credentials",
];

#[derive(Clone, PartialEq)]
pub struct Rows(Arc<Table>);

#[derive(PartialEq)]
struct Table {
    path: String,
    columns: Vec<String>,
    /// Of the whole table.
    n_rows: u64,
    /// Which rows are here, ascending and apart, each with the number of rows before it.
    ranges: Vec<(Range<u64>, u64)>,
    cells: Cells,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows({:?}, {:?}, {})", self.0.path, self.0.columns, self.0.n_rows)
    }
}

/// A mistake in a table, with its line where it has one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) line: Option<usize>,
    pub(crate) why: String,
    /// A key or a password, which must not be there at all.
    pub(crate) is_secret: bool,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl Rows {
    pub(crate) fn read(file: &File) -> Result<Self, Vec<Mistake>> {
        match &file.content {
            Content::Whole(bytes) => {
                let (columns, cells) = table(bytes)?;
                let n_rows = (cells.len() / columns.len()) as u64;
                let ranges = vec![(0..n_rows, 0)];
                let path = file.path.clone();
                Ok(Self(Arc::new(Table { path, columns, n_rows, ranges, cells })))
            }
            Content::Slice(slice) => Self::read_slice(&file.path, slice),
        }
    }

    fn read_slice(path: &str, slice: &Slice) -> Result<Self, Vec<Mistake>> {
        let (columns, cells) = table(&slice.csv)?;
        let mut ranges = Vec::new();
        let (mut before, mut end) = (0, 0);
        for range in &slice.ranges {
            let fits = range.start >= end && range.start < range.end && range.end <= slice.n_rows;
            if !fits {
                return Err(vec![mistake(None, "its slices are out of order")]);
            }
            ranges.push((range.clone(), before));
            before += range.end - range.start;
            end = range.end;
        }
        if before != (cells.len() / columns.len()) as u64 {
            return Err(vec![mistake(None, "its slices miss rows")]);
        }
        let (path, n_rows) = (path.to_owned(), slice.n_rows);
        Ok(Self(Arc::new(Table { path, columns, n_rows, ranges, cells })))
    }

    pub fn path(&self) -> &str {
        &self.0.path
    }

    pub fn columns(&self) -> &[String] {
        &self.0.columns
    }

    /// Of the whole table.
    pub fn n_rows(&self) -> u64 {
        self.0.n_rows
    }

    /// `None` where the row is not here or there is none.
    pub fn cell(&self, row: u64, column: usize) -> Option<&str> {
        let table = &*self.0;
        let after = table.ranges.partition_point(|(range, _)| range.end <= row);
        let (range, before) = table.ranges.get(after).filter(|(range, _)| range.start <= row)?;
        if column >= table.columns.len() {
            return None;
        }
        let place = usize::try_from(before + row - range.start).ok()?;
        table.cells.get(place * table.columns.len() + column)
    }

    /// The first two rows below `until` with the same text in this column.
    pub(crate) fn twice(&self, column: usize, until: u64) -> Option<(u64, u64)> {
        let mut seen = HashMap::new();
        for (range, _) in &self.0.ranges {
            for row in range.start..range.end.min(until) {
                if let Some(first) = seen.insert(self.cell(row, column)?, row) {
                    return Some((first, row));
                }
            }
        }
        None
    }

    /// The rows of these ranges and the header, as CSV; ranges beyond the table are cut.
    pub fn slice(&self, ranges: &[Range<u64>]) -> Slice {
        let mut wanted: Vec<Range<u64>> = Vec::new();
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable_by_key(|range| range.start);
        for range in sorted {
            let range = range.start..range.end.min(self.0.n_rows);
            match wanted.last_mut() {
                _ if range.is_empty() => {}
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => wanted.push(range),
            }
        }
        let mut csv = Vec::new();
        let write = |csv: &mut Vec<u8>, cells: &mut dyn Iterator<Item = &str>| {
            for (i, cell) in cells.enumerate() {
                csv.extend_from_slice(if i == 0 { b"" } else { b"," });
                write_cell(csv, cell);
            }
            csv.push(b'\n');
        };
        write(&mut csv, &mut self.0.columns.iter().map(String::as_str));
        for row in wanted.iter().cloned().flatten() {
            let cells = (0..self.0.columns.len()).filter_map(|column| self.cell(row, column));
            write(&mut csv, &mut { cells });
        }
        Slice { n_rows: self.0.n_rows, ranges: wanted, csv: csv.into() }
    }
}

pub(super) fn mistake(line: Option<usize>, why: impl Into<String>) -> Mistake {
    Mistake { line, why: why.into(), is_secret: false }
}

/// Columns and the cells of all rows.
pub(super) fn table(bytes: &[u8]) -> Result<(Vec<String>, Cells), Vec<Mistake>> {
    let text = text(bytes).map_err(|wrong| vec![wrong])?;
    let mut reader = Reader::new(text);
    let mut header = Cells::default();
    match reader.record(&mut header) {
        None => return Err(vec![mistake(None, "it is empty: a header line is expected")]),
        Some(Err(Malformed { line, why })) => return Err(vec![mistake(Some(line), why)]),
        Some(Ok(_)) => {}
    }
    let columns = columns(&header)?;
    let mut cells = Cells::default();
    let mut mistakes = Vec::new();
    loop {
        let before = cells.len();
        match reader.record(&mut cells) {
            None => break,
            Some(Err(Malformed { line, why })) => {
                mistakes.push(mistake(Some(line), why));
                cells.truncate(before);
                reader.skip_line();
            }
            Some(Ok(line)) if cells.len() - before != columns.len() => {
                let (found, expected) = (cells.len() - before, columns.len());
                let why = format!("{found} cells found, {expected} expected as in the header");
                mistakes.push(mistake(Some(line), why));
                cells.truncate(before);
            }
            Some(Ok(_)) => {}
        }
        if mistakes.len() == MAX_MISTAKES {
            break;
        }
    }
    if mistakes.is_empty() { Ok((columns, cells)) } else { Err(mistakes) }
}

/// UTF-8 without its byte order mark.
fn text(bytes: &[u8]) -> Result<&str, Mistake> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(mistake(None, "it is UTF-16: save it as UTF-8"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        mistake(Some(line), format!("byte 0x{:02X} is not UTF-8: save it as UTF-8", bytes[at]))
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn columns(header: &Cells) -> Result<Vec<String>, Vec<Mistake>> {
    let names: Vec<String> = (0..header.len())
        .filter_map(|i| header.get(i))
        .map(|name| name.trim().to_owned())
        .collect();
    let mut mistakes = Vec::new();
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() {
            mistakes.push(mistake(Some(1), format!("column {} has no name", i + 1)));
        } else if let Some(first) = names[..i].iter().position(|other| other == name) {
            let why = format!("column {} is called `{name}` like column {}", i + 1, first + 1);
            mistakes.push(mistake(Some(1), why));
        } else if is_secret(name) {
            let why = format!("column `{name}` looks like a key or a password");
            mistakes.push(Mistake { is_secret: true, ..mistake(Some(1), why) });
        }
    }
    if let [only] = names.as_slice()
        && only.contains([';', '\t'])
    {
        mistakes.push(mistake(Some(1), "one column found: cells are separated by commas"));
    }
    mistakes.truncate(MAX_MISTAKES);
    if mistakes.is_empty() { Ok(names) } else { Err(mistakes) }
}

/// `api_key`, `devicePassword`, `SAS-Token`: by the words of the name.
fn is_secret(name: &str) -> bool {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        let starts = !c.is_alphanumeric() || (c.is_uppercase() && was_lower);
        was_lower = c.is_lowercase() || c.is_numeric();
        if starts {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words.iter().any(|word| SECRET_WORDS.contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mistakes(bytes: &[u8]) -> Vec<String> {
        let read = Rows::read(&File::new("users.csv", bytes));
        read.unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn row_i_is_device_i_s() {
        let rows = Rows::read(&File::new(
            "u.csv",
            *b"\xef\xbb\xbfuser, site\r\nanna,\"a,b\"\r\nbert,\r\n",
        ))
        .unwrap();
        assert_eq!(rows.columns(), ["user", "site"]);
        assert_eq!((rows.n_rows(), rows.cell(1, 0), rows.cell(1, 1)), (2, Some("bert"), Some("")));
        assert_eq!((rows.cell(0, 1), rows.cell(2, 0), rows.cell(0, 2)), (Some("a,b"), None, None));
    }

    #[test]
    fn every_mistake_says_its_line() {
        assert_eq!(mistakes(b""), ["it is empty: a header line is expected"]);
        assert_eq!(
            mistakes(b"a,b\n1\n2,3\n4,5,6\n\"7\n"),
            [
                "line 2: 1 cells found, 2 expected as in the header",
                "line 4: 3 cells found, 2 expected as in the header",
                "line 5: a quote is not closed",
            ]
        );
        assert_eq!(
            mistakes(b"a,b,a,\n"),
            ["line 1: column 3 is called `a` like column 1", "line 1: column 4 has no name"]
        );
        assert_eq!(
            mistakes(b"a\nM\xfcller\n"),
            ["line 2: byte 0xFC is not UTF-8: save it as UTF-8"]
        );
        assert_eq!(mistakes(b"\xff\xfea\0"), ["it is UTF-16: save it as UTF-8"]);
        assert_eq!(mistakes(b"a;b\n"), ["line 1: one column found: cells are separated by commas"]);
    }

    #[test]
    fn keys_and_passwords_are_known_by_their_names() {
        for secret in ["password", "devicePassword", "api_key", "SAS-Token", "Secret", "PrivateKey"]
        {
            assert!(is_secret(secret), "{secret}");
        }
        for plain in ["user", "keyboard", "monkey", "site", "tokens_used_by", "serial"] {
            assert!(!is_secret(plain), "{plain}");
        }
    }

    #[test]
    fn the_same_text_twice_is_found() {
        let rows = Rows::read(&File::new("u.csv", *b"a\nx\ny\nx\n")).unwrap();
        assert_eq!(rows.twice(0, 3), Some((0, 2)));
        assert_eq!(rows.twice(0, 2), None);
    }

    proptest! {
        #[test]
        fn a_slice_has_the_cells_of_the_table(
            cells in proptest::collection::vec("[ab,\"\n]{0,4}", 1..60),
            cuts in proptest::collection::vec((0..70_u64, 0..9_u64), 0..6),
        ) {
            let mut csv = b"n,x\n".to_vec();
            for (i, cell) in cells.iter().enumerate() {
                csv.extend_from_slice(format!("{i},").as_bytes());
                write_cell(&mut csv, cell);
                csv.push(b'\n');
            }
            let whole = Rows::read(&File::new("t.csv", csv)).unwrap();
            let ranges: Vec<Range<u64>> = cuts.iter().map(|(at, n)| *at..at + n).collect();
            let slice = whole.slice(&ranges);
            let part = Rows::read(&File::sliced("t.csv", [0; 32], 0, slice)).unwrap();
            prop_assert_eq!(format!("{:?}", &part), format!("{:?}", &whole));
            for row in 0..70 {
                let wanted = ranges.iter().any(|range| range.contains(&row));
                let expected = whole.cell(row, 1).filter(|_| wanted);
                prop_assert_eq!(part.cell(row, 1), expected);
            }
        }
    }
}
