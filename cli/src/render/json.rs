//! Documents for machines: what the control plane said, field by field, only laid out, as JSON or as
//! the rows of a table.

use serde_json::Value;

use super::export::csv;
use crate::args::Output;

/// One document. `ndjson` is one line, everything else indented; both end in a line break.
pub(crate) fn document(value: &Value, output: Output) -> String {
    match output {
        Output::Ndjson => format!("{value}\n"),
        Output::Csv => csv::flat(std::slice::from_ref(value)),
        Output::Json | Output::Table => format!("{value:#}\n"),
    }
}

/// Several documents: an array, or one line each.
pub(crate) fn documents(values: Vec<Value>, output: Output) -> String {
    match output {
        Output::Ndjson => values.iter().map(|value| format!("{value}\n")).collect(),
        Output::Csv => csv::flat(&values),
        Output::Json | Output::Table => format!("{:#}\n", Value::Array(values)),
    }
}

/// The rows that stand under `key` of some documents, each with that document's own scalars.
pub(crate) fn rows(values: &[Value], key: &str) -> String {
    let row = |document: &Value, row: &Value| {
        let mut whole = document.as_object().cloned().unwrap_or_default();
        whole.retain(|_, value| !value.is_array() && !value.is_object());
        whole.extend(row.as_object().cloned().unwrap_or_default());
        Value::Object(whole)
    };
    let of = |document: &Value| -> Vec<Value> {
        let rows = document[key].as_array().into_iter().flatten();
        rows.map(|found| row(document, found)).collect()
    };
    csv::flat(&values.iter().flat_map(of).collect::<Vec<_>>())
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
