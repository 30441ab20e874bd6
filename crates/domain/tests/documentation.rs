//! Every complete file in the documentation is a plan.

mod support;

use std::path::Path;

use shoal_domain::check::parse_plan;

use self::support::files_of;

const PAGE: &str = include_str!("../../../docs/scenario.md");

#[test]
fn every_yaml_block_of_the_page_is_a_plan() {
    let blocks: Vec<&str> =
        PAGE.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 7, "{} blocks", blocks.len());
    // The files that a block names stand beside the shipped scenarios.
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    for block in blocks {
        if let Err(found) = parse_plan(block, &[], &files_of(block, &scenarios)) {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            panic!("{block}\n{found:#?}");
        }
    }
}

#[test]
fn every_shipped_scenario_is_a_plan() {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let files = std::fs::read_dir(&scenarios).unwrap().map(|entry| entry.unwrap().path());
    let is_scenario = |path: &std::path::PathBuf| path.extension().is_some_and(|ext| ext == "yaml");
    for file in files.filter(is_scenario) {
        let text = std::fs::read_to_string(&file).unwrap();
        if let Err(found) = parse_plan(&text, &[], &files_of(&text, &scenarios)) {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            // What must be set by a person is no mistake of ours.
            let is_unset = |line: &String| line.contains("has no value");
            assert!(found.iter().all(is_unset), "{}: {found:#?}", file.display());
        }
    }
}
