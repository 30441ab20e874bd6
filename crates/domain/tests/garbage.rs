//! Files of people and of hostile ones: each is a plan or a list of mistakes, never a panic. What
//! arrives in other ways has its own test beside its decoder, and all have a target in `fuzz/`.

use proptest::prelude::*;
use shoal_domain::check::{files_named, parse_plan};
use shoal_domain::files::{File, Files};

const ROWS: &str = "version: 1
name: rows
targets: { t: { mqtt: { url: builtin } } }
groups: { g: { target: t, devices: 2, rows: a.csv, id: '${row.a}', send: { s: { every: 1s, publish: { topic: a, text: x } } } } }
load: [ { hold: { for: 1s } } ]
";
const REPLAY: &str = "version: 1
name: replay
targets: { t: { mqtt: { url: builtin } } }
groups: { g: { target: t, devices: 2, send: { s: { replay: { file: a.csv, loop: true } } } } }
load: [ { hold: { for: 1s } } ]
";
const SHIPPED: [&str; 4] = [
    include_str!("../../../scenarios/http-nodes.yaml"),
    include_str!("../../../scenarios/sparkplug.yaml"),
    include_str!("../../../scenarios/load-shapes.yaml"),
    include_str!("../../../scenarios/commands.yaml"),
];

proptest! {
    #[test]
    fn any_table_is_read_or_its_mistakes_are_named(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        cells in "[a-b\",\r\n0-9éx ]{0,80}",
        head in prop_oneof![Just(""), Just("a,b\n"), Just("offset,topic,payload\n"), Just("offset,payload_base64,topic\n")],
    ) {
        for table in [bytes, format!("{head}{cells}").into_bytes()] {
            let files: Files = [File::new("a.csv", table)].into_iter().collect();
            for text in [ROWS, REPLAY] {
                if let Err(found) = parse_plan(text, &[], &files) {
                    prop_assert!(!found.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_scenario_with_any_piece_replaced_is_a_plan_or_mistakes(
        which in 0..SHIPPED.len(), at in any::<prop::sample::Index>(), n in 0usize..30,
        piece in prop_oneof!["[\\PC\n]{0,20}", "[ {}\\[\\]:,\"'${}().0-9a-z\n-]{0,30}"],
    ) {
        let text = SHIPPED[which];
        let start = text.floor_char_boundary(at.index(text.len()));
        let end = text.floor_char_boundary((start + n).min(text.len())).max(start);
        let spoilt = format!("{}{piece}{}", &text[..start], &text[end..]);
        let _ = files_named(&spoilt, &[]);
        if let Err(found) = parse_plan(&spoilt, &[], &Files::none()) {
            prop_assert!(!found.is_empty());
            // Whoever reads a mistake finds the place.
            prop_assert!(found.iter().all(|mistake| mistake.line >= 1));
        }
    }
}
