//! Finds the programs of this machine that tests drive.
//!
//! Distributions put daemons where the PATH of a user does not look, so a list of further places is
//! searched too.

use std::path::{Path, PathBuf};

/// The first file called `name` in the PATH, then in `further`.
pub(crate) fn find(name: &str, further: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(further.iter().cloned())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The places of system daemons.
pub(crate) fn system() -> Vec<PathBuf> {
    ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"].iter().map(PathBuf::from).collect()
}

/// Directories `root/<version>/tail`, the highest version first.
pub(crate) fn versions(root: &str, tail: &str) -> Vec<PathBuf> {
    let mut found: Vec<(f64, PathBuf)> = std::fs::read_dir(Path::new(root))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join(tail)))
        })
        .collect();
    found.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    found.into_iter().map(|(_, dir)| dir).collect()
}
