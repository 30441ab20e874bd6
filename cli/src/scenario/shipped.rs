//! The files that a scenario names, read from its directory.
//!
//! A scenario may come from anybody, so it reaches nothing but regular files below its own
//! directory, links included. What cannot be read becomes a mistake at the place that names it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use shoal_domain::files::{File, Files, MAX_TOTAL_BYTES};

pub(super) fn read(dir: &Path, paths: BTreeSet<String>) -> Files {
    let mut files = Files::none();
    for path in paths {
        match bytes(dir, &path) {
            Ok(bytes) => files.insert(File::new(path, bytes)),
            Err(why) => files.insert_unreadable(path, why),
        }
    }
    files
}

fn bytes(dir: &Path, path: &str) -> Result<Vec<u8>, String> {
    let sentence = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        _ => error.to_string(),
    };
    let dir = fs::canonicalize(dir).map_err(sentence)?;
    let real = fs::canonicalize(dir.join(path)).map_err(sentence)?;
    if !real.starts_with(&dir) {
        return Err("it is a link that leads out of the scenario's directory".to_owned());
    }
    let meta = fs::metadata(&real).map_err(sentence)?;
    if meta.is_dir() {
        return Err("it is a directory".to_owned());
    }
    // A pipe or a device could be read forever.
    if !meta.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let most = MAX_TOTAL_BYTES >> 20;
    let too_large = |n: u64| format!("it has {n} bytes, at most {most} MiB are shipped");
    if meta.len() > MAX_TOTAL_BYTES {
        return Err(too_large(meta.len()));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(&real).map_err(sentence)?;
    file.take(MAX_TOTAL_BYTES + 1).read_to_end(&mut bytes).map_err(sentence)?;
    if bytes.len() as u64 > MAX_TOTAL_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_the_directory_are_read() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("passwd"), "root").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join("data/users.csv"), "user\n").unwrap();
        std::os::unix::fs::symlink("data/users.csv", dir.path().join("link.csv")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("passwd"), dir.path().join("out")).unwrap();

        assert_eq!(bytes(dir.path(), "data/users.csv").unwrap(), b"user\n");
        assert_eq!(bytes(dir.path(), "link.csv").unwrap(), b"user\n");
        assert_eq!(bytes(dir.path(), "none.csv").unwrap_err(), "no such file");
        assert_eq!(bytes(dir.path(), "data").unwrap_err(), "it is a directory");
        assert!(bytes(dir.path(), "out").unwrap_err().contains("leads out"));
        let large = fs::File::create(dir.path().join("large")).unwrap();
        large.set_len(MAX_TOTAL_BYTES + 1).unwrap();
        assert!(bytes(dir.path(), "large").unwrap_err().contains("at most 32 MiB"));
    }
}
