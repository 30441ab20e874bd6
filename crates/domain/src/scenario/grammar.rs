//! The JSON Schema of the scenario file, for editors.
//!
//! The grammar has one description: the reader. So the schema is found by asking it: it reads
//! small files, each with one place that is a scalar, a map or a list, and the collector notes
//! what it asks for there. A key that a reader learns is in the schema at once; nothing can drift.
//! What a release refuses as not built is not offered. Invariant: a file that the reader takes is
//! valid by the schema; the schema says nothing about values, units and names.

use serde_json::{Map, Value, json};

use crate::diagnostics::{Ask, Collector, Place};
use crate::yaml::{Entry, Kind, Node, Style};

/// A name that any map of names takes.
const PROBE: &str = "probe";
const NAME: &str = "^[A-Za-z0-9_-]{1,64}$";
/// What a scalar of YAML may be to an editor; the reader takes its text.
const SCALAR: [&str; 3] = ["string", "number", "boolean"];

/// One step from the file's root to the place that is asked about.
#[derive(Clone)]
enum Step {
    Key(String),
    Item,
}

pub(crate) fn schema() -> Value {
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Shoal scenario",
        "description": "What is loaded, by whom, when, and what must hold: see docs/scenario.md.",
    });
    if let (Value::Object(into), Value::Object(found)) = (&mut schema, explore(&[])) {
        into.extend(found);
    }
    schema
}

/// What may stand at a place.
fn explore(steps: &[Step]) -> Value {
    let path = path_of(steps);
    let mut kinds = Vec::new();
    let asked = ask(steps, scalar());
    if asked.contains(&Ask::Text(path.clone())) {
        kinds.push(scalar_schema(&path, &asked, steps));
    }
    let entry = Entry { key: PROBE.to_owned(), place: PLACE, value: scalar() };
    let asked = ask(steps, node(Kind::Map(vec![entry])));
    let child = with(steps, Step::Key(PROBE.to_owned()));
    if asked.contains(&Ask::Map(path.clone())) {
        kinds.push(map_schema(&path, &asked, steps));
    } else if asked.contains(&Ask::Names(path.clone())) {
        kinds.push(json!({
            "type": "object",
            "patternProperties": { NAME: explore(&child) },
            "additionalProperties": false,
        }));
    } else if is_asked(&asked, &path_of(&child)) {
        kinds.push(json!({ "type": "object", "additionalProperties": explore(&child) }));
    }
    let asked = ask(steps, node(Kind::List(vec![scalar()])));
    let item = with(steps, Step::Item);
    if asked.contains(&Ask::Items(path)) || is_asked(&asked, &path_of(&item)) {
        kinds.push(json!({ "type": "array", "items": explore(&item) }));
    }
    match kinds.len() {
        // Nobody asks below a tree that is a payload.
        0 => json!({}),
        1 => kinds.swap_remove(0),
        _ => json!({ "anyOf": kinds }),
    }
}

fn scalar_schema(path: &str, asked: &[Ask], steps: &[Step]) -> Value {
    let words = asked.iter().find_map(|ask| match ask {
        Ask::Word(at, words) if at == path => Some(words),
        _ => None,
    });
    if let Some(words) = words {
        return json!({ "enum": words });
    }
    let is_named = matches!(steps.last(), Some(Step::Key(key)) if key == PROBE);
    // A variable without a value must be set.
    let null = is_named.then_some("null");
    json!({ "type": SCALAR.into_iter().chain(null).collect::<Vec<_>>() })
}

fn map_schema(path: &str, asked: &[Ask], steps: &[Step]) -> Value {
    let mut properties = Map::new();
    for found in asked {
        if let Ask::Key(at, key) = found
            && at == path
            && !properties.contains_key(*key)
        {
            let child = with(steps, Step::Key((*key).to_owned()));
            properties.insert((*key).to_owned(), explore(&child));
        }
    }
    let mut required: Vec<&str> = Vec::new();
    let mut choices = Vec::new();
    for found in asked {
        match found {
            Ask::Required(at, key) if at == path && !required.contains(key) => required.push(key),
            Ask::OneOf(at, keys) if at == path => {
                let built = keys.iter().filter(|key| properties.contains_key(**key));
                choices.push(built.map(|key| json!({ "required": [key] })).collect::<Vec<_>>());
            }
            _ => {}
        }
    }
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if let [choice] = choices.as_slice() {
        schema["oneOf"] = json!(choice);
    } else if !choices.is_empty() {
        let all: Vec<Value> = choices.iter().map(|choice| json!({ "oneOf": choice })).collect();
        schema["allOf"] = json!(all);
    }
    schema
}

fn is_asked(asked: &[Ask], path: &str) -> bool {
    asked.iter().any(|ask| match ask {
        Ask::Text(at) | Ask::Map(at) | Ask::Names(at) | Ask::Items(at) => at == path,
        _ => false,
    })
}

/// Everything that the reader asks for in a file with one place.
fn ask(steps: &[Step], leaf: Node) -> Vec<Ask> {
    let root = steps.iter().rev().fold(leaf, |value, step| {
        node(match step {
            Step::Key(key) => Kind::Map(vec![Entry { key: key.clone(), place: PLACE, value }]),
            Step::Item => Kind::List(vec![value]),
        })
    });
    let out = Collector::listening();
    super::read(&root, &out);
    out.heard()
}

const PLACE: Place = Place { line: 1, column: 1 };

fn node(kind: Kind) -> Node {
    Node { place: PLACE, kind }
}

fn scalar() -> Node {
    node(Kind::Scalar { text: "x".to_owned(), style: Style::Plain })
}

fn with(steps: &[Step], step: Step) -> Vec<Step> {
    steps.iter().cloned().chain([step]).collect()
}

fn path_of(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) => crate::yaml::child(&path, key),
        Step::Item => format!("{path}[0]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;
    use std::path::Path;

    /// As an editor reads it.
    fn json_of(node: &Node) -> Value {
        match &node.kind {
            Kind::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), json_of(&entry.value))).collect(),
            ),
            Kind::List(items) => Value::Array(items.iter().map(json_of).collect()),
            Kind::Scalar { text, style: Style::Quoted } => Value::from(text.as_str()),
            Kind::Scalar { text, .. } if text.is_empty() => Value::Null,
            Kind::Scalar { text, .. } => serde_json::from_str(text)
                .ok()
                .filter(|value: &Value| value.is_number() || value.is_boolean())
                .unwrap_or_else(|| Value::from(text.as_str())),
        }
    }

    fn problems(text: &str) -> Vec<String> {
        let out = Collector::default();
        let root = yaml::parse(text, &out).unwrap();
        let validator = jsonschema::validator_for(&schema()).unwrap();
        validator.iter_errors(&json_of(&root)).map(|error| error.to_string()).collect()
    }

    fn root(path: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    /// `SHOAL_WRITE=1` writes it anew.
    #[test]
    fn the_committed_schema_is_what_the_reader_asks_for() {
        let file = root("docs/scenario.schema.json");
        let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("SHOAL_WRITE").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == text,
            "docs/scenario.schema.json differs: write it with SHOAL_WRITE=1"
        );
    }

    #[test]
    fn every_file_that_we_ship_or_show_is_valid() {
        let page = std::fs::read_to_string(root("docs/scenario.md")).unwrap();
        let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let mut texts: Vec<String> = blocks.map(str::to_owned).collect();
        for entry in std::fs::read_dir(root("scenarios")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                texts.push(std::fs::read_to_string(path).unwrap());
            }
        }
        assert!(texts.len() > 12, "{}", texts.len());
        for text in texts {
            assert_eq!(problems(&text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn mistakes_that_an_editor_can_see_are_seen() {
        const QUICKSTART: &str = include_str!("../../../../scenarios/quickstart.yaml");
        for (right, wrong) in [
            ("keep_alive", "keepalive"),
            ("every: 1s", "evry: 1s"),
            ("qos: 1\n", "qos: 1\n          text: x\n"),
            ("    target: broker\n", ""),
            ("ramp: { to: 100%, rate: 50/s }", "ramp: { to: 100%, rate: 50/s, over: 1s }"),
            ("    send:\n", "    send: telemetry\n    let:\n"),
            ("every: 1s", "every: 1s\n        while_away: drop"),
        ] {
            assert!(QUICKSTART.contains(right), "{right}");
            let text = QUICKSTART.replacen(right, wrong, 1);
            assert!(!problems(&text).is_empty(), "{wrong}");
        }
    }
}
