//! Aligned columns: a header row, text to the left, numbers to the right, no decoration.
//!
//! Widths count characters; names in scenarios and on the wire are short and mostly ASCII.

use super::clean;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// One table; rows have as many cells as there are columns.
#[derive(Debug)]
pub(crate) struct Columns {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// Headers with a leading `>` belong to numbers and stand to the right.
    pub(crate) fn new(headers: &[&str]) -> Self {
        let align = headers
            .iter()
            .map(|header| if header.starts_with('>') { Align::Right } else { Align::Left })
            .collect();
        let names =
            headers.iter().map(|header| header.trim_start_matches('>').to_owned()).collect();
        Self { align, rows: vec![names] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.align.len(), "a cell for every column");
        self.rows.push(cells.iter().map(|cell| clean(cell)).collect());
    }

    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.align.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(&widths).zip(&self.align) {
                let padding = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell.as_str(), &padding]),
                    Align::Right => line.extend([padding.as_str(), cell]),
                }
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_under_their_header() {
        let mut columns = Columns::new(&["name", ">count"]);
        columns.row(vec!["a".into(), "1,000".into()]);
        columns.row(vec!["longer".into(), "2 µs".into()]);
        assert_eq!(columns.render(), "name    count\na       1,000\nlonger   2 µs\n");
    }
}
