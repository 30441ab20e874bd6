//! Text to a tree of nodes that know their place.
//!
//! A strict part of YAML 1.2: one document, no anchors, aliases, tags or duplicate keys, bounded
//! size and depth, and every scalar stays text: who reads it decides what it means, so `no` is a
//! word here and `3.1.1` is no number. Invariant: a tree that was built is at most
//! [`MAX_DEPTH`] deep and its maps have no key twice.

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::diagnostics::{Collector, Place};

const MAX_BYTES: usize = 1024 * 1024;
pub(crate) const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Scalar { text: String, style: Style },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without quotes on one line: a character's column is known.
    Plain,
    /// Without quotes over several lines.
    PlainFolded,
    /// Quoted, or a block: always text.
    Quoted,
}

impl Node {
    /// How a message names what stands here.
    pub(crate) fn found(&self) -> String {
        match &self.kind {
            Kind::Scalar { text, .. } if text.is_empty() => "nothing".to_owned(),
            Kind::Scalar { text, .. } => format!("`{text}`"),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
        }
    }
}

/// The path of a map's value.
pub(crate) fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `None` where no tree could be built; the reason was reported.
pub(crate) fn parse(text: &str, out: &Collector) -> Option<Node> {
    let start = Place { line: 1, column: 1 };
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, at most {MAX_BYTES} are read", text.len());
        out.report(start, "", message, None);
        return None;
    }
    let mut builder = Builder { parser: Parser::new_from_str(text), text, out };
    let root = builder.document();
    if root.is_none() && out.is_empty() {
        out.report(start, "", "the file is empty, a scenario is expected", None);
    }
    root
}

struct Builder<'t> {
    parser: Parser<'t, StrInput<'t>>,
    text: &'t str,
    out: &'t Collector,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Option<(Event<'t>, Span)> {
        match self.parser.next_event()? {
            Ok(event) => Some(event),
            Err(error) => {
                let place = place_of(*error.marker());
                let reason = error.info().replace('\n', " ");
                let help = self.help_for(place);
                self.out.report(place, "", format!("not YAML: {reason}"), help);
                None
            }
        }
    }

    fn help_for(&self, place: Place) -> Option<String> {
        let line = self.text.lines().nth(place.line.saturating_sub(1))?;
        if line.trim_start_matches(' ').starts_with('\t') {
            return Some("indent with spaces, not with tabs".to_owned());
        }
        let opens_a_map = line.char_indices().any(|(at, c)| c == '{' && !line[..at].ends_with('$'));
        (opens_a_map && line.contains("${"))
            .then(|| "quote a value that holds ${...} inside { }".to_owned())
    }

    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return root,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) => {
                    if root.is_some() {
                        let place = place_of(span.start);
                        self.out.report(
                            place,
                            "",
                            "one document is expected, a second one starts here",
                            None,
                        );
                        return None;
                    }
                }
                event => root = Some(self.node(event, span, "", 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, path: &str, depth: usize) -> Option<Node> {
        let place = place_of(span.start);
        if depth > MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            self.out.report(place, "", message, None);
            return None;
        }
        let (anchor, is_tagged) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.is_some())
            }
            _ => (0, false),
        };
        if anchor != 0 {
            self.out.report(place, path, "an anchor (`&`) is not allowed", None);
        }
        if is_tagged {
            self.out.report(place, path, "a tag (`!`) is not allowed", None);
        }
        let kind = match event {
            Event::Scalar(text, style, ..) => Kind::Scalar {
                text: text.into_owned(),
                style: match style {
                    ScalarStyle::Plain if span.start.line() == span.end.line() => Style::Plain,
                    ScalarStyle::Plain => Style::PlainFolded,
                    _ => Style::Quoted,
                },
            },
            Event::SequenceStart(..) => Kind::List(self.list(path, depth)?),
            Event::MappingStart(..) => Kind::Map(self.map(path, depth)?),
            _ => {
                self.out.report(place, path, "an alias (`*`) is not allowed", None);
                Kind::Scalar { text: String::new(), style: Style::Quoted }
            }
        };
        Some(Node { place, kind })
    }

    fn list(&mut self, path: &str, depth: usize) -> Option<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Some(items);
            }
            let path = format!("{path}[{}]", items.len());
            items.push(self.node(event, span, &path, depth + 1)?);
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Option<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Some(entries);
            }
            let key_node = self.node(event, span, path, depth + 1)?;
            let place = key_node.place;
            let key = match key_node.kind {
                Kind::Scalar { text, .. } if !text.is_empty() => Some(text),
                kind => {
                    let help = matches!(kind, Kind::Map(_))
                        .then(|| "`{{ }}` is not the syntax: write ${...}".to_owned());
                    self.out.report(place, path, "a key must be a plain word", help);
                    None
                }
            };
            let (event, span) = self.next()?;
            let value_path = child(path, key.as_deref().unwrap_or_default());
            let value = self.node(event, span, &value_path, depth + 1)?;
            let Some(key) = key else { continue };
            if let Some(first) = seen.insert(key.clone(), place.line) {
                let message = format!("`{key}` stands here twice (first in line {first})");
                self.out.report(place, path, message, None);
                continue;
            }
            entries.push(Entry { key, place, value });
        }
    }
}

fn place_of(marker: saphyr_parser::Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mistakes(text: &str) -> Vec<String> {
        let out = Collector::default();
        parse(text, &out);
        out.sorted().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn words_stay_words() {
        let out = Collector::default();
        let node = parse("a: no\nb: 3.1.1\nc: 'yes'", &out).unwrap();
        let Kind::Map(entries) = node.kind else { panic!("{node:?}") };
        assert_eq!(entries[0].value.found(), "`no`");
        assert_eq!(entries[1].value.found(), "`3.1.1`");
        assert_eq!(entries[2].value.place, Place { line: 3, column: 4 });
        assert!(out.is_empty());
    }

    #[test]
    fn what_parsers_disagree_about_is_refused() {
        assert_eq!(mistakes("a: &x 1"), ["1:4 a: an anchor (`&`) is not allowed"]);
        assert_eq!(mistakes("a: !!str 1"), ["1:4 a: a tag (`!`) is not allowed"]);
        assert_eq!(
            mistakes("a: &x 1\nb: *x"),
            ["1:4 a: an anchor (`&`) is not allowed", "2:4 b: an alias (`*`) is not allowed"]
        );
        assert_eq!(mistakes("a: 1\na: 2"), ["2:1 : `a` stands here twice (first in line 1)"]);
        assert!(mistakes("a: 1\n---\nb: 2")[0].contains("one document"));
        assert!(mistakes("")[0].contains("empty"));
        assert!(mistakes(&"[".repeat(100))[0].contains("nested deeper"));
        assert!(mistakes(&" ".repeat(MAX_BYTES + 1))[0].contains("bytes"));
    }

    proptest! {
        #[test]
        fn any_text_gives_a_tree_or_a_mistake(text in "[\\PC\n\t]{0,200}") {
            let out = Collector::default();
            let tree = parse(&text, &out);
            prop_assert!(tree.is_some() || !out.is_empty());
        }
    }
}
