//! A YAML tree becomes a JSON template: all structure and escapes are literal text before a run.
//!
//! A lone expression keeps its type, so `${int(1, 5)}` is a number and `${device}` a string. What
//! renders is valid JSON whatever the values are: text that may hold quotes is escaped when it
//! renders.

use super::Check;
use super::text::{Scope, Value, ValueKind};
use crate::scenario::Written;
use crate::template::{Generator, Template};
use crate::yaml::{Kind, Node, Style, child};

impl Check<'_> {
    pub(super) fn json(&self, node: &Node, path: &str, scope: &Scope<'_>) -> Option<Template> {
        let mut template = Template::default();
        self.json_node(node, path, scope, &mut template).then_some(template)
    }

    /// Whether all of it compiled; goes on after a mistake.
    fn json_node(&self, node: &Node, path: &str, scope: &Scope<'_>, into: &mut Template) -> bool {
        let mut is_whole = true;
        match &node.kind {
            Kind::Map(entries) => {
                into.push_literal("{");
                for (i, entry) in entries.iter().enumerate() {
                    let path = child(path, &entry.key);
                    if entry.key.contains("${") {
                        let message = "a key is fixed: an expression may not stand here";
                        self.out.report(entry.place, &path, message, None);
                        is_whole = false;
                    }
                    into.push_literal(if i == 0 { "" } else { "," });
                    into.push_literal(&quoted(&entry.key));
                    into.push_literal(":");
                    is_whole &= self.json_node(&entry.value, &path, scope, into);
                }
                into.push_literal("}");
            }
            Kind::List(items) => {
                into.push_literal("[");
                for (i, item) in items.iter().enumerate() {
                    into.push_literal(if i == 0 { "" } else { "," });
                    is_whole &= self.json_node(item, &format!("{path}[{i}]"), scope, into);
                }
                into.push_literal("]");
            }
            Kind::Scalar { text, style } => {
                let (path, text, style) = (path.to_owned(), text.clone(), *style);
                let written = Written { path, text, style, place: node.place };
                is_whole = self.json_scalar(&written, scope, into).is_some();
            }
        }
        is_whole
    }

    fn json_scalar(&self, written: &Written, scope: &Scope<'_>, into: &mut Template) -> Option<()> {
        let is_plain = written.style != Style::Quoted;
        let mut values = self.pieces(written, scope)?;
        if !written.text.contains("${") {
            into.push_literal(&self.constant(&written.text, is_plain, written)?);
            return Some(());
        }
        if values.len() == 1
            && let Some(value) = values.pop()
        {
            match value {
                Value { generator: Generator::Text(text), kind: ValueKind::Scalar } => {
                    into.push_literal(&self.constant(&text, true, written)?);
                    return Some(());
                }
                Value { generator, kind: ValueKind::Number } => {
                    into.push_value(generator);
                    return Some(());
                }
                Value { generator: Generator::Captured(index), kind: ValueKind::Captured } => {
                    into.push_value(Generator::CapturedJson(index));
                    return Some(());
                }
                value => values.push(value),
            }
        }
        into.push_literal("\"");
        for value in values {
            match value.text() {
                Generator::Text(text) => {
                    let quoted = quoted(&text);
                    into.push_literal(&quoted[1..quoted.len() - 1]);
                }
                safe if safe.is_json_safe() => into.push_value(safe),
                other => into.push_value(Generator::JsonText(Box::new(other))),
            }
        }
        into.push_literal("\"");
        Some(())
    }

    /// A scalar without expressions, by the core schema of YAML 1.2.
    pub(super) fn constant(&self, text: &str, is_plain: bool, written: &Written) -> Option<String> {
        if !is_plain {
            return Some(quoted(text));
        }
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Some("null".to_owned()),
            "true" | "True" | "TRUE" => return Some("true".to_owned()),
            "false" | "False" | "FALSE" => return Some("false".to_owned()),
            _ => {}
        }
        let lower = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
        if lower == ".inf" || lower == ".nan" {
            let message = format!("`{text}` found, which JSON cannot hold");
            self.out.report(written.place, &written.path, message, None);
            return None;
        }
        Some(number(text).unwrap_or_else(|| quoted(text)))
    }
}

/// As JSON writes the number that YAML's core schema reads; `None` where it is no number.
pub(super) fn number(text: &str) -> Option<String> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(|value| value.to_string());
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().map(|value| value.to_string());
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (sign, magnitude) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let (mantissa, exponent) = match magnitude.find(['e', 'E']) {
        Some(at) => (&magnitude[..at], Some(&magnitude[at + 1..])),
        None => (magnitude, None),
    };
    if exponent.is_some_and(|exponent| !digits(exponent.trim_start_matches(['+', '-']))) {
        return None;
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = (digits(whole) || (whole.is_empty() && digits(fraction)))
        && (fraction.is_empty() || digits(fraction));
    if !is_number {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let mut json = format!("{sign}{}", if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        json.push('.');
        json.push_str(fraction);
    }
    if let Some(exponent) = exponent {
        json.push('e');
        json.push_str(exponent);
    }
    serde_json::from_str::<serde_json::Number>(&json).ok().map(|_| json)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
