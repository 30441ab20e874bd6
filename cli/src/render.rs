//! The only code that writes to a person: stdout is data, stderr is the rest.
//!
//! Nothing here computes: every number comes from the run's document or from the plan. Text that
//! came over the wire passes [`clean`], so that no broker can steer a terminal.

pub(crate) mod columns;
pub(crate) mod comparison;
pub(crate) mod device;
pub(crate) mod diagnostics;
pub(crate) mod export;
pub(crate) mod json;
pub(crate) mod live;
pub(crate) mod logs;
pub(crate) mod numbers;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod requests;
pub(crate) mod runs;
pub(crate) mod spark;

use std::io::{self, IsTerminal, Write};

use crate::error::Error;

/// Writes data to stdout. A reader that has gone away (`| head`) is no error.
pub(crate) fn data(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Stdout(error)),
        _ => Ok(()),
    }
}

/// Writes to stderr. If even that fails there is nobody left to tell.
pub(crate) fn remark(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Colors, where somebody can see them and has not declined them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(bool);

impl Paint {
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self(false);

    pub(crate) fn for_stdout() -> Self {
        let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(io::stdout().is_terminal() && !declined)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One line without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
pub(crate) mod golden {
    //! Compares with a file of `cli/tests/golden`; `SHOAL_GOLDEN=write` writes it instead.

    use std::path::Path;

    #[track_caller]
    pub(crate) fn assert(name: &str, actual: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("SHOAL_GOLDEN").is_some_and(|mode| mode == "write") {
            std::fs::write(&path, actual).unwrap();
            return;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            expected == actual,
            "{name} differs (SHOAL_GOLDEN=write accepts):\n--- expected\n{expected}\n--- actual\n{actual}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_outside_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
