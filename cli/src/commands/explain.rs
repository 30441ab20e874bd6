//! `shoal explain`: the page of an error code, built into the binary so that it fits the release.

use super::DONE;
use crate::error::Error;
use crate::render;

/// The pages of `docs/errors`; a test keeps this table complete.
macro_rules! pages {
    ($($code:literal),* $(,)?) => {
        const PAGES: &[(&str, &str)] =
            &[$(($code, include_str!(concat!("../../../docs/errors/", $code, ".md")))),*];
    };
}

pages![
    "SH0101", "SH0102", "SH0103", "SH0104", "SH0105", "SH0201", "SH0202", "SH0203", "SH0204",
    "SH0205", "SH0206", "SH0207", "SH0208", "SH0209", "SH0210", "SH0301", "SH0302", "SH0303",
    "SH0304", "SH0305", "SH0306", "SH0307", "SH0308", "SH0310", "SH0311", "SH0401", "SH0402",
    "SH0403", "SH0404", "SH0405", "SH0406", "SH0407", "SH0408", "SH0409", "SH0410", "SH0411",
    "SH0412", "SH0501", "SH0502", "SH0503", "SH0504", "SH0601", "SH0602", "SH0701", "SH0702",
    "SH0703", "SH0704", "SH0705", "SH0706", "SH0707", "SH0708", "SH0709",
];

pub(super) fn perform(code: &str) -> Result<u8, Error> {
    let wanted = code.trim().to_ascii_uppercase();
    let page = PAGES.iter().find(|(code, _)| *code == wanted).ok_or_else(|| Error::Usage {
        why: format!("`{code}` is no error code of this release"),
        help: "codes look like SH0101 and stand in brackets behind `error`".into(),
    })?;
    render::data(page.1)?;
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Every `SH` and four digits in a file of ours.
    fn codes_in(text: &str, found: &mut BTreeSet<String>) {
        for (at, _) in text.match_indices("SH0") {
            let code = text.get(at..at + 6).unwrap_or_default();
            if code[2..].bytes().all(|b| b.is_ascii_digit()) && code.len() == 6 {
                found.insert(code.to_owned());
            }
        }
    }

    fn walk(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                codes_in(&std::fs::read_to_string(&path).unwrap(), found);
            }
        }
    }

    #[test]
    fn every_code_in_the_source_has_a_page_and_every_page_is_built_in() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut used = BTreeSet::new();
        for part in ["cli/src", "agent/src", "control-plane/src", "crates", "proto/src"] {
            walk(&root.join(part), &mut used);
        }
        // Examples in comments of the wire and the house rules.
        used.remove("SH0107");
        let built_in: BTreeSet<String> = PAGES.iter().map(|(code, _)| (*code).to_owned()).collect();
        let missing: Vec<_> = used.difference(&built_in).collect();
        assert!(missing.is_empty(), "codes without a page in docs/errors: {missing:?}");
        let files: BTreeSet<String> = std::fs::read_dir(root.join("docs/errors"))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(files, built_in);
    }

    #[test]
    fn a_page_says_what_happened_why_and_what_to_do() {
        for (code, page) in PAGES {
            assert!(page.starts_with(&format!("# {code}: ")), "{code}");
            for part in ["\n## Likely causes\n", "\n## What to do\n"] {
                assert!(page.contains(part), "{code} lacks {part:?}");
            }
        }
    }
}
