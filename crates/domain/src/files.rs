//! Files that go with a run: the ones that its scenario names, by paths relative to it.
//!
//! Reading them is the work of whoever has a disk or a connection; here they are bytes with a
//! name and a hash. A table of rows may be a slice, because an agent gets the rows of its own
//! devices only. Invariant: two files with the same `Debug` text have the same content, so the
//! plan's hash covers what a run works with and not only what it is called.

mod csv;
mod recording;
mod rows;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use self::recording::Recording;
pub(crate) use self::rows::Mistake;
pub use self::rows::Rows;

/// Of all files of a run together: they travel in one request and stand in the store.
pub const MAX_TOTAL_BYTES: u64 = 32 * 1024 * 1024;
pub const MAX_FILES: usize = 64;
/// Longer paths are not names.
const MAX_PATH_BYTES: usize = 255;

/// A file by its place among [`crate::plan::Plan::files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u32);

impl FileId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, PartialEq)]
pub struct File {
    /// Relative to the scenario, with `/` and without `.` or `..`.
    pub path: String,
    pub sha256: [u8; 32],
    /// Of the whole file.
    pub n_bytes: u64,
    content: Content,
}

#[derive(Clone, PartialEq)]
enum Content {
    Whole(Arc<[u8]>),
    Slice(Slice),
}

/// The part of a table that one agent needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Of the whole table.
    pub n_rows: u64,
    /// Which rows these are: ascending and apart.
    pub ranges: Vec<Range<u64>>,
    /// Header and rows, as CSV.
    pub csv: Arc<[u8]>,
}

impl File {
    /// `path` as [`relative`] gave it.
    pub fn new(path: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let (sha256, n_bytes) = (Sha256::digest(&bytes).into(), bytes.len() as u64);
        Self { path: path.into(), sha256, n_bytes, content: Content::Whole(bytes) }
    }

    /// What an agent holds of a table.
    pub fn sliced(path: impl Into<String>, sha256: [u8; 32], n_bytes: u64, slice: Slice) -> Self {
        Self { path: path.into(), sha256, n_bytes, content: Content::Slice(slice) }
    }

    /// `None` for a slice: nothing but rows is ever read from it.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes),
            Content::Slice(_) => None,
        }
    }

    /// `None` for a whole file.
    pub fn slice(&self) -> Option<&Slice> {
        match &self.content {
            Content::Whole(_) => None,
            Content::Slice(slice) => Some(slice),
        }
    }

    /// Sixty-four hexadecimal digits.
    pub fn sha256_hex(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({:?}, {}, {})", self.path, self.sha256_hex(), self.n_bytes)
    }
}

/// What was found under the paths that a scenario names.
#[derive(Debug, Clone, Default)]
pub struct Files(BTreeMap<String, Result<File, String>>);

impl Files {
    /// Of a scenario that names none.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn insert(&mut self, file: File) {
        self.0.insert(file.path.clone(), Ok(file));
    }

    /// A file that could not be read, and why.
    pub fn insert_unreadable(&mut self, path: impl Into<String>, why: impl Into<String>) {
        self.0.insert(path.into(), Err(why.into()));
    }

    pub(crate) fn get(&self, path: &str) -> Option<Result<&File, &str>> {
        self.0.get(path).map(|found| found.as_ref().map_err(String::as_str))
    }
}

impl FromIterator<File> for Files {
    fn from_iter<T: IntoIterator<Item = File>>(files: T) -> Self {
        Self(files.into_iter().map(|file| (file.path.clone(), Ok(file))).collect())
    }
}

/// A path as it is shipped: below the scenario's directory, in one spelling. Otherwise what is
/// expected of one.
pub fn relative(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("the path of a file");
    }
    if text.len() > MAX_PATH_BYTES || text.chars().any(char::is_control) {
        return Err("a path of at most 255 bytes without control characters");
    }
    if text.starts_with(['/', '\\', '~']) || text.contains(':') {
        return Err("a path relative to this file, or agent:/... for a file of the agent");
    }
    if text.contains('\\') {
        return Err("a path with `/` between directories");
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("a path below the directory of this file, without `..`"),
            part => parts.push(part),
        }
    }
    if parts.is_empty() || text.ends_with('/') {
        return Err("the path of a file, not of a directory");
    }
    Ok(parts.join("/"))
}

/// What must never travel with a run, wherever it stands.
pub(crate) fn holds_private_key(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_scenario() {
        assert_eq!(relative("users.csv").unwrap(), "users.csv");
        assert_eq!(relative("./data//users.csv").unwrap(), "data/users.csv");
        for refused in
            ["", "/etc/passwd", "../x", "a/../../x", "~/x", "C:\\x", "a\\b", "data/", ".", "a\nb"]
        {
            assert!(relative(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn the_debug_text_is_the_content() {
        let one = File::new("a", *b"x");
        assert_ne!(format!("{one:?}"), format!("{:?}", File::new("a", *b"y")));
        let slice = Slice { n_rows: 9, ranges: Vec::new(), csv: Arc::from(*b"") };
        let sliced = File::sliced("a", one.sha256, 1, slice);
        assert_eq!(format!("{one:?}"), format!("{sliced:?}"));
        assert!(sliced.bytes().is_none());
    }

    #[test]
    fn a_private_key_is_seen_anywhere() {
        assert!(holds_private_key(b"a,b\n1,-----BEGIN EC PRIVATE KEY-----"));
        assert!(!holds_private_key(b"-----BEGIN CERTIFICATE-----"));
    }
}
