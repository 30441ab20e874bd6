//! Reads the files that a scenario names, which the crate itself never does.

use std::path::Path;

use shoal_domain::check::files_named;
use shoal_domain::files::{File, Files};

pub(crate) fn files_of(text: &str, dir: &Path) -> Files {
    let mut files = Files::none();
    for path in files_named(text, &[]) {
        match std::fs::read(dir.join(&path)) {
            Ok(bytes) => files.insert(File::new(path, bytes)),
            Err(error) => files.insert_unreadable(path, error.to_string()),
        }
    }
    files
}
