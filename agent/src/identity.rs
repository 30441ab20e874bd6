//! Which process this is: the lock on the data directory, and the incarnation of this process.
//!
//! Whoever holds the lock has proof that the process which wrote the incarnation found in the
//! directory is dead; the control plane may then hand that one's work over at once. Invariant: at
//! most one live process per data directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use shoal_service_kit::random;

/// Longest incarnation that is believed; ours are 32 characters.
const MAX_INCARNATION: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "data directory {} is in use by another agent (process {holder}): \
         stop that one, or give this one its own --data-dir and --id", dir.display()
    )]
    Locked { dir: PathBuf, holder: String },
    #[error("data directory {} cannot be used: {doing}: {source}; give another --data-dir", dir.display())]
    Unusable { dir: PathBuf, doing: &'static str, source: io::Error },
}

/// Held for as long as the process lives.
#[derive(Debug)]
pub(crate) struct Identity {
    _lock: Flock<File>,
    pub(crate) incarnation: String,
    /// Of the process that held the lock before; empty when there was none.
    pub(crate) predecessor: String,
}

impl Identity {
    pub(crate) fn take(dir: &Path) -> Result<Self, IdentityError> {
        let unusable =
            |doing| move |source| IdentityError::Unusable { dir: dir.to_owned(), doing, source };
        fs::create_dir_all(dir).map_err(unusable("create it"))?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(dir.join("lock")).map_err(unusable("open its lock"))?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, Errno::EWOULDBLOCK)) => {
                return Err(IdentityError::Locked { dir: dir.to_owned(), holder: holder(file) });
            }
            Err((_, errno)) => return Err(unusable("lock it")(errno.into())),
        };
        write_pid(&mut lock).map_err(unusable("write its lock"))?;
        let path = dir.join("incarnation");
        let predecessor = read_incarnation(&path).map_err(unusable("read its incarnation"))?;
        let incarnation = random::token();
        // Renamed into place: a crash leaves the old or the new one, never half of one.
        let fresh = dir.join("incarnation.new");
        fs::write(&fresh, &incarnation)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(unusable("write its incarnation"))?;
        Ok(Self { _lock: lock, incarnation, predecessor })
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

fn holder(mut file: File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text).map(|_| text.trim().parse::<u32>()) {
        Ok(Ok(pid)) => pid.to_string(),
        _ => "unknown".to_owned(),
    }
}

/// What is no incarnation (a damaged file) names nobody.
fn read_incarnation(path: &Path) -> io::Result<String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let fits = text.len() <= MAX_INCARNATION && text.bytes().all(|b| b.is_ascii_alphanumeric());
    Ok(if fits { text } else { String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_with_directory_and_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::take(dir.path()).unwrap();
        let error = Identity::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        assert!(Identity::take(dir.path()).is_ok());
    }

    #[test]
    fn the_next_process_names_its_predecessor() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::take(dir.path()).unwrap();
        assert_eq!(first.predecessor, "");
        let incarnation = first.incarnation.clone();
        drop(first);
        let second = Identity::take(dir.path()).unwrap();
        assert_eq!(second.predecessor, incarnation);
        assert_ne!(second.incarnation, incarnation);
    }

    #[test]
    fn a_damaged_incarnation_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("incarnation"), b"\xff\x00<>").unwrap();
        assert_eq!(Identity::take(dir.path()).unwrap().predecessor, "");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Identity::take(&file.join("below")).unwrap_err();
        assert!(matches!(error, IdentityError::Unusable { .. }), "{error}");
    }
}
