//! Files that the scenario names: found, free of secrets, read as what they are used as.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::Check;
use crate::files::{self, File, FileId, Files, MAX_FILES, MAX_TOTAL_BYTES, Mistake, Rows};
use crate::plan::FileRef;
use crate::scenario::Written;

const AGENT: &str = "agent:";
const NO_SECRETS: &str = "keys and passwords are not shipped with a run: sign certificates by a \
     test CA (signed_by), derive passwords with hmac_sha256(secret.x, device), or keep the file on \
     the agent (agent:/...)";

/// What a file is used as. Agents get whole files, but of a table only their rows, so a file has
/// one use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Whole,
    Rows,
}

/// What was asked for and what goes with the run.
#[derive(Debug)]
pub(super) struct Shipping<'f> {
    found: &'f Files,
    asked: Rc<RefCell<BTreeSet<String>>>,
    /// In the order of their first use.
    taken: RefCell<Vec<(File, Use)>>,
}

impl<'f> Shipping<'f> {
    pub(super) fn new(found: &'f Files) -> Self {
        Self { found, asked: Rc::default(), taken: RefCell::default() }
    }

    pub(super) fn asked(&self) -> Rc<RefCell<BTreeSet<String>>> {
        Rc::clone(&self.asked)
    }

    /// `None` where one is missing, which was reported.
    pub(super) fn files(&self) -> Option<Vec<File>> {
        let taken = self.taken.borrow();
        let files = || taken.iter().map(|(file, _)| file.clone()).collect();
        (taken.len() == self.asked.borrow().len()).then(files)
    }
}

impl Check<'_> {
    /// A file that may also be one of the agent.
    pub(super) fn file_ref(&self, written: &Written) -> Option<FileRef> {
        let resolved = self.resolve(written)?;
        let Some(path) = resolved.text.strip_prefix(AGENT) else {
            return self.shipped(written).map(FileRef::Shipped);
        };
        let is_absolute = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !is_absolute || path.chars().any(char::is_control) {
            self.misread(written, &resolved, "an absolute path on the agent, agent:/...");
            return None;
        }
        Some(FileRef::OnAgent(path.to_owned()))
    }

    /// A file that goes with the run.
    pub(super) fn shipped(&self, written: &Written) -> Option<FileId> {
        self.shipped_as(written, Use::Whole)
    }

    fn shipped_as(&self, written: &Written, used: Use) -> Option<FileId> {
        let resolved = self.resolve(written)?;
        if resolved.text.starts_with(AGENT) {
            self.misread(written, &resolved, "a file beside the scenario");
            return None;
        }
        let path = match files::relative(&resolved.text) {
            Ok(path) => path,
            Err(needs) => {
                self.misread(written, &resolved, needs);
                return None;
            }
        };
        let refuse = |message: String, help: Option<String>| {
            self.out.report(written.place, &written.path, message, help);
            None
        };
        let is_new = self.shipping.asked.borrow_mut().insert(path.clone());
        let taken = &self.shipping.taken;
        if let Some(known) = taken.borrow().iter().position(|(file, _)| file.path == path) {
            if taken.borrow()[known].1 != used {
                let message = format!("`{path}` is used as a table of rows and as something else");
                return refuse(message, Some("give each use its own file".to_owned()));
            }
            return Some(FileId(known as u32));
        }
        let file = match self.shipping.found.get(&path) {
            Some(Ok(file)) => file,
            Some(Err(why)) => return refuse(format!("`{path}` cannot be read: {why}"), None),
            None => return refuse(format!("`{path}` is not among the files of this run"), None),
        };
        let total = taken.borrow().iter().map(|(file, _)| file.n_bytes).sum::<u64>() + file.n_bytes;
        if is_new && total > MAX_TOTAL_BYTES {
            let most = MAX_TOTAL_BYTES >> 20;
            return refuse(
                format!(
                    "the files of this run have {total} bytes with `{path}`, at most {most} MiB are shipped"
                ),
                Some("cut the file, or keep it on the agents (agent:/...)".to_owned()),
            );
        }
        if taken.borrow().len() == MAX_FILES {
            return refuse(format!("more than {MAX_FILES} files are named"), None);
        }
        if file.bytes().is_some_and(files::holds_private_key) {
            return refuse(format!("`{path}` holds a private key"), Some(NO_SECRETS.to_owned()));
        }
        taken.borrow_mut().push((file.clone(), used));
        Some(FileId(taken.borrow().len() as u32 - 1))
    }

    /// Reads a shipped file.
    pub(super) fn with_file<T>(&self, id: FileId, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let taken = self.shipping.taken.borrow();
        taken.get(id.index()).and_then(|(file, _)| file.bytes()).map(read)
    }

    /// `None` where one is missing, which was reported.
    pub(super) fn file_ref_or_none(&self, written: Option<&Written>) -> Option<Option<FileRef>> {
        match written {
            Some(written) => self.file_ref(written).map(Some),
            None => Some(None),
        }
    }

    /// The certificates of authorities: PEM.
    pub(super) fn authorities(&self, written: Option<&Written>) -> Option<Option<FileRef>> {
        let file = self.file_ref_or_none(written)?;
        if let (Some(FileRef::Shipped(id)), Some(written)) = (&file, written) {
            let taken = self.shipping.taken.borrow();
            let (file, _) = &taken[id.index()];
            let bytes = file.bytes().unwrap_or_default();
            let mark = b"-----BEGIN CERTIFICATE-----";
            if !bytes.windows(mark.len()).any(|window| window == mark) {
                let message = format!("`{}` holds no certificate in PEM form", file.path);
                self.out.report(written.place, &written.path, message, None);
                return None;
            }
        }
        Some(file)
    }

    pub(super) fn report_mistakes(&self, written: &Written, path: &str, mistakes: Vec<Mistake>) {
        for mistake in mistakes {
            let help = mistake.is_secret.then(|| NO_SECRETS.to_owned());
            let message = format!("`{path}` {mistake}");
            self.out.report(written.place, &written.path, message, help);
        }
    }

    pub(super) fn file(&self, id: FileId) -> Option<File> {
        self.shipping.taken.borrow().get(id.index()).map(|(file, _)| file.clone())
    }

    /// A table whose row i is device i's.
    pub(super) fn rows(&self, written: &Written, devices: Option<u64>) -> Option<Rows> {
        let id = self.shipped_as(written, Use::Rows)?;
        let (file, _) = self.shipping.taken.borrow()[id.index()].clone();
        let path = &file.path;
        let rows = match Rows::read(&file) {
            Ok(rows) => rows,
            Err(mistakes) => {
                self.report_mistakes(written, path, mistakes);
                return None;
            }
        };
        if let Some(devices) = devices
            && rows.n_rows() < devices
        {
            let message = format!(
                "`{path}` has {} rows, but the group has {devices} devices: each needs its own",
                rows.n_rows()
            );
            self.out.report(written.place, &written.path, message, None);
            return None;
        }
        Some(rows)
    }
}
