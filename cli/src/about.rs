//! Who started a run and of what: given, else what the pipeline says, else nothing.
//!
//! Only variables that a CI sets by itself are looked at, and never a working directory: a guess
//! that is sometimes wrong would be worse than an empty field.

use shoal_domain::labels::Labels;

use crate::args::results::AboutArgs;
use crate::config::Environment;
use crate::error::Error;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) labels: Labels,
    pub(crate) note: String,
    pub(crate) started_by: String,
    pub(crate) revision: String,
}

/// GitHub, GitLab, Azure, Buildkite, Jenkins; then the person.
const PEOPLE: [&str; 8] = [
    "SHOAL_STARTED_BY",
    "GITHUB_ACTOR",
    "GITLAB_USER_LOGIN",
    "BUILD_REQUESTEDFOR",
    "BUILDKITE_BUILD_AUTHOR",
    "BUILD_USER_ID",
    "USER",
    "LOGNAME",
];

/// GitHub, GitLab, Azure, Buildkite, CircleCI, Bitbucket, Travis, Jenkins.
const REVISIONS: [&str; 9] = [
    "SHOAL_REVISION",
    "GITHUB_SHA",
    "CI_COMMIT_SHA",
    "BUILD_SOURCEVERSION",
    "BUILDKITE_COMMIT",
    "CIRCLE_SHA1",
    "BITBUCKET_COMMIT",
    "TRAVIS_COMMIT",
    "GIT_COMMIT",
];

impl About {
    pub(crate) fn of(args: &AboutArgs, environment: Environment<'_>) -> Result<Self, Error> {
        let first = |given: &Option<String>, names: &[&str]| {
            let found =
                || names.iter().find_map(|name| environment(name).filter(|v| !v.is_empty()));
            given.clone().or_else(found).unwrap_or_default()
        };
        Ok(Self {
            labels: labels(&args.label)?,
            note: args.note.clone().unwrap_or_default(),
            started_by: first(&args.started_by, &PEOPLE),
            revision: first(&args.revision, &REVISIONS),
        })
    }
}

pub(crate) fn labels(texts: &[String]) -> Result<Labels, Error> {
    Labels::parse(texts.iter().map(String::as_str)).map_err(|error| Error::Usage {
        why: error.to_string(),
        help: "write it like --label env=staging".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins_over_the_pipeline_and_the_pipeline_over_the_person() {
        let ci = |name: &str| match name {
            "GITHUB_SHA" => Some("1f6c2a9".to_owned()),
            "GITHUB_ACTOR" => Some("kim".to_owned()),
            "USER" => Some("runner".to_owned()),
            _ => None,
        };
        let args = AboutArgs { label: vec!["env=staging".into()], ..AboutArgs::default() };
        let about = About::of(&args, &ci).unwrap();
        assert_eq!((about.started_by.as_str(), about.revision.as_str()), ("kim", "1f6c2a9"));
        assert_eq!(about.labels.to_string(), "env=staging");
        let given = AboutArgs { revision: Some("v2".into()), ..AboutArgs::default() };
        assert_eq!(About::of(&given, &ci).unwrap().revision, "v2");
        assert_eq!(About::of(&AboutArgs::default(), &|_| None).unwrap(), About::default());
    }

    #[test]
    fn a_label_without_a_value_is_refused() {
        assert!(labels(&["env".to_owned()]).is_err());
    }
}
