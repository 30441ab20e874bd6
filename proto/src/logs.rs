//! Log lines on the wire.

use shoal_domain::logs::{Level, LogLine, MOST_LINES};

use crate::{BadField, v1};

/// Lines of an agent, brought within bounds. Refused as a whole when they are more than anybody sends
/// together or one makes no sense; `now_us` is the time of their receipt.
pub fn lines_from_wire(wire: v1::LogLines, now_us: u64) -> Result<Vec<LogLine>, BadField> {
    if wire.lines.len() > MOST_LINES {
        return Err(BadField::new("lines", format!("more than {MOST_LINES}")));
    }
    wire.lines.into_iter().map(|line| line_from_wire(line, now_us)).collect()
}

fn line_from_wire(wire: v1::LogLine, now_us: u64) -> Result<LogLine, BadField> {
    let level = Level::from_word(&wire.level)
        .ok_or_else(|| BadField::new("level", format!("`{}` is none", wire.level)))?;
    let run = match wire.run_id.as_str() {
        "" => None,
        id => Some(id.parse().map_err(|error| BadField::new("run_id", error))?),
    };
    let v1::LogLine { number, at_us, target, text, fields, dropped, .. } = wire;
    Ok(LogLine { number, at_us, level, target, run, text, fields, dropped }.bounded(now_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(level: &str) -> v1::LogLine {
        v1::LogLine { level: level.into(), fields: "{}".into(), at_us: 5, ..Default::default() }
    }

    #[test]
    fn nonsense_is_refused_with_the_field_that_is_wrong() {
        let refused = |lines| lines_from_wire(v1::LogLines { lines }, 9).unwrap_err().field;
        assert_eq!(refused(vec![wire("LOUD")]), "level");
        assert_eq!(refused(vec![v1::LogLine { run_id: "run_1".into(), ..wire("INFO") }]), "run_id");
        assert_eq!(refused(vec![wire("INFO"); MOST_LINES + 1]), "lines");
    }

    #[test]
    fn a_line_from_the_future_was_said_now() {
        let line = v1::LogLine { at_us: u64::MAX, ..wire("WARN") };
        assert_eq!(lines_from_wire(v1::LogLines { lines: vec![line] }, 9).unwrap()[0].at_us, 9);
    }
}
