//! Lines of logs, as text for a terminal and as documents.
//!
//! What an agent says may quote a broker, so nothing in it reaches a terminal as it is: control
//! characters, and those that turn the direction of writing, are shown by their numbers.

use serde_json::{Map, Value, json};
use shoal_proto::v1::{LogLine, RunLogLine};

use super::Paint;
use super::numbers::instant;

/// Who speaks where no agent does; no agent id has a blank.
const CONTROL_PLANE: &str = "control plane";

pub(crate) fn text(said: &RunLogLine, paint: Paint) -> String {
    let line = said.line.clone().unwrap_or_default();
    let who = if said.agent_id.is_empty() { CONTROL_PLANE.into() } else { shown(&said.agent_id) };
    let lost = match line.dropped {
        0 => String::new(),
        n => format!(
            "{}\n",
            paint.bad(&format!("… {n} lines of {who} before this one were dropped"))
        ),
    };
    let (at, ms) = (instant(line.at_us), line.at_us / 1_000 % 1_000);
    let level = format!("{:<5}", shown(&line.level));
    let level = match line.level.as_str() {
        "ERROR" | "WARN" => paint.bad(&level),
        _ => level,
    };
    let mut text = format!("{lost}{at}.{ms:03}  {level}  {who:<13}  {}", shown(&line.text));
    for (name, value) in fields(&line).iter().filter(|(name, _)| *name != "assignment") {
        let value = match value {
            Value::String(word) if is_plain(word) => word.clone(),
            Value::String(words) => format!("\"{}\"", shown(words)),
            other => shown(&other.to_string()),
        };
        text.push_str(&format!("  {}={value}", shown(name)));
    }
    text.push('\n');
    text
}

pub(crate) fn document(said: &RunLogLine) -> Value {
    let line = said.line.clone().unwrap_or_default();
    json!({
        "at_us": line.at_us,
        "agent": (!said.agent_id.is_empty()).then_some(&said.agent_id),
        "level": line.level,
        "target": line.target,
        "text": line.text,
        "fields": fields(&line),
        "dropped": line.dropped,
    })
}

fn fields(line: &LogLine) -> Map<String, Value> {
    serde_json::from_str(&line.fields).unwrap_or_default()
}

fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_graphic() && c != '"')
}

fn shown(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, fields: &str) -> RunLogLine {
        let line = LogLine {
            at_us: 1_772_366_405_042_000,
            level: "WARN".into(),
            target: "shoal_agent::session".into(),
            text: text.into(),
            fields: fields.into(),
            ..LogLine::default()
        };
        RunLogLine { agent_id: "agent-1".into(), line: Some(line) }
    }

    #[test]
    fn a_line_says_when_how_severe_who_what_and_the_fields() {
        let line =
            said("refused", r#"{"assignment":"run_1.a","code":"SH0301","why":"no route","n":3}"#);
        assert_eq!(
            text(&line, Paint::PLAIN),
            "2026-03-01 12:00:05.042  WARN   agent-1        refused  code=SH0301  why=\"no route\"  n=3\n"
        );
    }

    #[test]
    fn nothing_in_a_line_steers_a_terminal() {
        let hostile = said("a\x1b[2Jb\nc\u{202e}d", r#"{"why\u001b":"\u0007","x":["\u001b[31m"]}"#);
        let text = text(&hostile, Paint::PLAIN);
        assert!(!text.trim_end_matches('\n').chars().any(char::is_control), "{text:?}");
        assert!(text.contains(r"a\u{1b}[2Jb\nc\u{202e}d"), "{text}");
    }

    #[test]
    fn lines_that_were_lost_are_counted_where_they_were() {
        let mut line = said("later", "{}");
        line.line.as_mut().unwrap().dropped = 12;
        let text = text(&line, Paint::PLAIN);
        assert!(text.starts_with("… 12 lines of agent-1 before this one were dropped\n"), "{text}");
        assert_eq!(document(&line)["dropped"], 12);
    }

    #[test]
    fn the_control_plane_is_nobodys_agent() {
        let mut line = said("run", "not json");
        line.agent_id.clear();
        assert!(text(&line, Paint::PLAIN).contains("  control plane  run\n"));
        let document = document(&line);
        assert_eq!((&document["agent"], &document["fields"]), (&Value::Null, &json!({})));
    }
}
