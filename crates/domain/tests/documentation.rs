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
