//! Every complete file in the documentation is a plan.

use shoal_domain::check::parse_plan;

const PAGE: &str = include_str!("../../../docs/scenario.md");

#[test]
fn every_yaml_block_of_the_page_is_a_plan() {
    let blocks: Vec<&str> =
        PAGE.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 7, "{} blocks", blocks.len());
    for block in blocks {
        if let Err(found) = parse_plan(block, &[]) {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            panic!("{block}\n{found:#?}");
        }
    }
}
