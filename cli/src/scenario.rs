//! A scenario file, read and checked before anybody else sees it, by the same code as everywhere.

mod shipped;

use std::path::{Path, PathBuf};

use shoal_domain::check::{EXCLUDE_TAGS, TAGS, files_named, parse_plan};
use shoal_domain::plan::{Endpoint, Plan};

use crate::args::Changes;
use crate::error::Error;
use crate::render::diagnostics;

/// The largest file that the parser takes, and a little, so that it can say so itself.
const READ_LIMIT: u64 = 1024 * 1024 + 1024;

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) file: PathBuf,
    pub(crate) text: String,
    pub(crate) overrides: Vec<(String, String)>,
    pub(crate) plan: Plan,
}

impl Scenario {
    pub(crate) fn load(file: &Path, changes: &Changes) -> Result<Self, Error> {
        let overrides = overrides(changes)?;
        let text =
            read(file).map_err(|why| Error::ScenarioUnreadable { path: file.into(), why })?;
        let dir = file.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        let files = shipped::read(dir, files_named(&text, &overrides));
        match parse_plan(&text, &overrides, &files) {
            Ok(plan) => Ok(Self { file: file.into(), text, overrides, plan }),
            Err(mistakes) => {
                let rendered = diagnostics::render(file, &text, &mistakes);
                Err(Error::ScenarioMistakes { rendered })
            }
        }
    }

    /// The first target that is the demo broker.
    pub(crate) fn builtin_target(&self) -> Option<&str> {
        let targets = &self.plan.targets;
        let builtin = targets.iter().find(|target| *target.endpoint() == Endpoint::Builtin)?;
        Some(&builtin.name)
    }
}

pub(crate) fn read(file: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(READ_LIMIT).read_to_end(&mut bytes))
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "no such file".to_owned(),
            std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
            _ => error.to_string(),
        })?;
    String::from_utf8(bytes)
        .map_err(|error| format!("byte {} is not UTF-8", error.utf8_error().valid_up_to() + 1))
}

fn overrides(changes: &Changes) -> Result<Vec<(String, String)>, Error> {
    let mut overrides = Vec::new();
    for text in &changes.set {
        match text.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                overrides.push((name.trim().to_owned(), value.to_owned()));
            }
            _ => return Err(Error::BadOverride { text: text.clone() }),
        }
    }
    // They reach the agents on the way of the variables, so that all see one plan.
    for (option, tags) in [(TAGS, &changes.tags), (EXCLUDE_TAGS, &changes.exclude_tags)] {
        if !tags.is_empty() {
            overrides.push((option.to_owned(), tags.join(",")));
        }
    }
    Ok(overrides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::golden;

    fn shipped(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios").join(name)
    }

    fn set_to(set: &[String]) -> Changes {
        Changes { set: set.to_vec(), ..Changes::default() }
    }

    #[test]
    fn an_override_is_a_name_and_a_value() {
        let set = ["devices=5".to_owned(), "topic=a=b".to_owned(), "empty=".to_owned()];
        let expected = [("devices", "5"), ("topic", "a=b"), ("empty", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(overrides(&set_to(&set)).unwrap(), expected);
        assert!(overrides(&set_to(&["devices".to_owned()])).is_err());
        assert!(overrides(&set_to(&["=5".to_owned()])).is_err());
    }

    #[test]
    fn the_quickstart_needs_the_demo_broker_until_told_otherwise() {
        let quickstart = shipped("quickstart.yaml");
        let scenario = Scenario::load(&quickstart, &Changes::default()).unwrap();
        assert_eq!(scenario.builtin_target(), Some("broker"));
        let set = ["broker=mqtt://127.0.0.1:1883".to_owned()];
        assert_eq!(Scenario::load(&quickstart, &set_to(&set)).unwrap().builtin_target(), None);
    }

    #[test]
    fn every_mistake_is_shown_at_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bad.yaml");
        let text = std::fs::read_to_string(shipped("quickstart.yaml")).unwrap();
        let text = text.replace("every: 1s", "every: 1").replace("${walk(", "${wlak(");
        std::fs::write(&file, text).unwrap();
        let error = Scenario::load(&file, &Changes::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let shown = error.render().replace(dir.path().to_str().unwrap(), "scenarios");
        golden::assert("mistakes.txt", &shown);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Scenario::load(Path::new("no/such.yaml"), &Changes::default()).unwrap_err();
        assert_eq!(error.to_string(), "cannot read scenario no/such.yaml: no such file");
    }
}
