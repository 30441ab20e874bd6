//! Mistakes in a scenario, shown in the file: where, what, a hint, the line with a caret.

use std::fmt::Write as _;
use std::path::Path;

use shoal_domain::diagnostics::Diagnostic;

use super::clean;

pub(crate) fn render(file: &Path, source: &str, mistakes: &[Diagnostic]) -> String {
    let file = clean(&file.display().to_string());
    let lines: Vec<&str> = source.lines().collect();
    let mut text = String::new();
    for mistake in mistakes {
        let Diagnostic { path, line, column, message, help } = mistake;
        let path = if path.is_empty() { String::new() } else { format!("{}: ", clean(path)) };
        let message = clean(message);
        let _ = writeln!(text, "error[SH0101]: {file}:{line}:{column} {path}{message}");
        if let Some(help) = help {
            let _ = writeln!(text, "  help: {}", clean(help));
        }
        if let Some(source) = line.checked_sub(1).and_then(|index| lines.get(index)) {
            text.push_str(&excerpt(*line, *column, source));
        }
    }
    let what =
        if mistakes.len() == 1 { "1 mistake" } else { &format!("{} mistakes", mistakes.len()) };
    let _ = writeln!(text, "{what} in {file}; `shoal explain SH0101` says more");
    text
}

/// A window of the line around the column, so that a long line stays readable.
fn excerpt(number: usize, column: usize, line: &str) -> String {
    const BEFORE: usize = 60;
    const WIDTH: usize = 110;
    let index = column.saturating_sub(1);
    let from = if index >= WIDTH - 10 { index - BEFORE } else { 0 };
    let shown: String = line.chars().skip(from).take(WIDTH).collect();
    // Tabs would move the caret.
    let shown = clean(&shown.replace('\t', " "));
    let margin = number.to_string();
    let caret = " ".repeat(index - from);
    format!("  {margin} | {}\n  {:width$} | {caret}^\n", shown.trim_end(), "", width = margin.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_place_also_in_long_lines() {
        let line = format!("{}here", "x".repeat(500));
        let shown = excerpt(7, 501, &line);
        let (source, caret) = shown.split_once('\n').unwrap();
        assert_eq!(source.find("here"), caret.find('^'));
        assert!(source.len() < 140);
    }
}
