//! Documents for machines: what the control plane said, field by field, only laid out.

use serde_json::Value;

use crate::args::Output;

/// One document. `ndjson` is one line, everything else indented; both end in a line break.
pub(crate) fn document(value: &Value, output: Output) -> String {
    if output == Output::Ndjson { format!("{value}\n") } else { format!("{value:#}\n") }
}

/// Several documents: an array, or one line each.
pub(crate) fn documents(values: Vec<Value>, output: Output) -> String {
    if output == Output::Ndjson {
        values.iter().map(|value| format!("{value}\n")).collect()
    } else {
        format!("{:#}\n", Value::Array(values))
    }
}

#[cfg(test)]
mod tests {
    use crate::render::golden;
    use crate::render::report::tests::failed;

    use super::*;

    #[test]
    fn the_document_keeps_its_fields_in_their_order() {
        let bytes = serde_json::to_vec(&failed()).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        golden::assert("report_failed.json", &document(&value, Output::Json));
        let line = document(&value, Output::Ndjson);
        assert_eq!(line.trim_end().lines().count(), 1);
        assert_eq!(line.trim_end().as_bytes(), bytes);
    }

    #[test]
    fn a_list_without_entries_is_still_a_document() {
        assert_eq!(documents(vec![], Output::Json), "[]\n");
        assert_eq!(documents(vec![], Output::Ndjson), "");
    }
}
