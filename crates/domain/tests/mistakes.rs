//! Single mistakes in complete files, each with the message a person must get.
//!
//! `fixtures/mistakes.txt` is the contract: a replacement, then the lines expected of it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use shoal_domain::check::parse_plan;

use self::support::files_of;

const NUMBERED: [&str; 3] =
    ["1-telemetry-eventhubs.yaml", "2-http-nodes.yaml", "3-reconnect-storm.yaml"];

struct Mistake {
    left: String,
    right: String,
    expected: Vec<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> String {
    fs::read_to_string(fixtures().join(name)).expect("a fixture of this crate")
}

fn mistakes() -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    for line in fixture("mistakes.txt").lines() {
        if let Some(expected) = line.strip_prefix("   ") {
            mistakes
                .last_mut()
                .expect("a replacement stands before its lines")
                .expected
                .push(expected.to_owned());
        } else if !line.is_empty() {
            let (left, right) = line.split_once("' -> '").expect("a replacement");
            mistakes.push(Mistake {
                left: left.strip_prefix('\'').expect("a quoted left side").to_owned(),
                right: right.strip_suffix('\'').expect("a quoted right side").replace("\\n", "\n"),
                expected: Vec::new(),
            });
        }
    }
    mistakes
}

/// The file in which the left side stands; the first of them where it stands in several.
fn file_with(left: &str) -> String {
    NUMBERED.map(fixture).into_iter().find(|text| text.contains(left)).expect("some file has it")
}

fn diagnostics(text: &str) -> Vec<String> {
    // A variable without a value must be set; what it is does not matter here.
    let target = ("target".to_owned(), "http://127.0.0.1".to_owned());
    let needs_target = text.contains("{ target: ,");
    let overrides = if needs_target { vec![target] } else { vec![] };
    match parse_plan(text, &overrides, &files_of(text, &fixtures())) {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_mistake_gets_its_message_and_no_other() {
    let mistakes = mistakes();
    assert_eq!(mistakes.len(), 23);
    let mut failures = String::new();
    for Mistake { left, right, expected } in mistakes {
        let text = file_with(&left).replacen(&left, &right, 1);
        let found = diagnostics(&text);
        // What a parser says about text that is not YAML is its own; place and help are ours.
        let ours = |line: &String| match line.split_once(" not YAML: ") {
            Some((place, rest)) => format!("{place}{:?}", rest.split_once(" | ").map(|(_, h)| h)),
            None => line.clone(),
        };
        let found_ours: Vec<String> = found.iter().map(ours).collect();
        let expected_ours: Vec<String> = expected.iter().map(ours).collect();
        if found_ours != expected_ours {
            failures +=
                &format!("'{left}' -> '{right}'\n  expected {expected:#?}\n  found {found:#?}\n");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn complete_files_have_no_mistake() {
    for name in [
        "quickstart.yaml",
        "telemetry.yaml",
        "stall.yaml",
        "http-tutorial.yaml",
        "1-telemetry-eventhubs.yaml",
        "2-http-nodes.yaml",
        "3-reconnect-storm.yaml",
        "ingestion-mqtt.yaml",
    ] {
        assert_eq!(diagnostics(&fixture(name)), Vec::<String>::new(), "{name}");
    }
}
