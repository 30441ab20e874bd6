//! Reading a map of known keys.
//!
//! What may stand in a map is what its reader asked for: [`Fields::close`] reports every other key
//! with the nearest one that was asked for. A reader therefore asks for all keys, whatever it
//! found before.

use crate::diagnostics::{Ask, Collector, Place, suggest};
use crate::yaml::{Entry, Kind, Node, Style, child};

/// A scalar exactly as a person wrote it, with its path and place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Written {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) style: Style,
    pub(crate) place: Place,
}

impl Written {
    /// The place of the character at `offset`; the opening quote in a quoted scalar, whose
    /// characters may be escapes.
    pub(crate) fn at(&self, offset: usize) -> Place {
        match self.style {
            Style::Plain => Place { column: self.place.column + offset, ..self.place },
            _ => self.place,
        }
    }

    /// The last part of the path, which is the key.
    pub(crate) fn key(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

/// A value with the place of its key.
#[derive(Clone)]
pub(crate) struct Field<'n> {
    pub(crate) path: String,
    pub(crate) key_place: Place,
    pub(crate) node: &'n Node,
}

pub(crate) struct Fields<'n> {
    pub(crate) path: String,
    pub(crate) place: Place,
    entries: &'n [Entry],
    asked: Vec<&'static str>,
    out: &'n Collector,
}

impl<'n> Fields<'n> {
    /// `None`, and reported, where the node is no map.
    pub(crate) fn open(node: &'n Node, path: &str, out: &'n Collector) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else {
            let message = format!("{} found, a map of keys expected", node.found());
            out.report(node.place, path, message, None);
            return None;
        };
        out.hear(|| Ask::Map(path.to_owned()));
        let (path, place) = (path.to_owned(), node.place);
        Some(Self { path, place, entries, asked: Vec::new(), out })
    }

    pub(crate) fn find(&mut self, key: &'static str) -> Option<Field<'n>> {
        self.asked.push(key);
        self.out.hear(|| Ask::Key(self.path.clone(), key));
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let path = child(&self.path, key);
        Some(Field { path, key_place: entry.place, node: &entry.value })
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<Written> {
        let field = self.find(key)?;
        written(field.node, &field.path, self.out)
    }

    pub(crate) fn map(&mut self, key: &'static str) -> Option<Fields<'n>> {
        let field = self.find(key)?;
        Fields::open(field.node, &field.path, self.out)
    }

    pub(crate) fn required(&mut self, key: &'static str) -> Option<Field<'n>> {
        self.out.hear(|| Ask::Required(self.path.clone(), key));
        let field = self.find(key);
        if field.is_none() {
            self.missing(key);
        }
        field
    }

    pub(crate) fn required_text(&mut self, key: &'static str) -> Option<Written> {
        let field = self.required(key)?;
        written(field.node, &field.path, self.out)
    }

    pub(crate) fn missing(&self, key: &str) {
        self.out.report(self.place, &self.path, format!("`{key}` is missing"), None);
    }

    /// The one kind key of a thing that has several kinds.
    pub(crate) fn exactly_one(
        &mut self,
        keys: &[&'static str],
    ) -> Option<(&'static str, Field<'n>)> {
        self.out.hear(|| Ask::OneOf(self.path.clone(), keys.to_vec()));
        let mut found: Vec<(&'static str, Field<'n>)> =
            keys.iter().filter_map(|key| self.find(key).map(|field| (*key, field))).collect();
        let expected = keys.join(", ");
        match found.as_slice() {
            [] => {
                let message = format!("one of {expected} is expected");
                self.out.report(self.place, &self.path, message, None);
            }
            [_] => {}
            [_, ..] => {
                let names: Vec<&str> = found.iter().map(|(key, _)| *key).collect();
                let names = names.join(" and ");
                let message = format!("exactly one of {expected} is expected, found {names}");
                let mut places: Vec<Place> =
                    found.iter().map(|(_, field)| field.key_place).collect();
                places.sort_unstable();
                self.out.report(places[1], &self.path, message, None);
            }
        }
        if found.is_empty() { None } else { Some(found.swap_remove(0)) }
    }

    pub(crate) fn close(self) {
        for entry in self.entries {
            if !self.asked.contains(&entry.key.as_str()) {
                let path = child(&self.path, &entry.key);
                let message = format!("unknown key `{}`", entry.key);
                let help = suggest(&entry.key, self.asked.iter().copied());
                self.out.report(entry.place, &path, message, help);
            }
        }
    }
}

pub(crate) fn written(node: &Node, path: &str, out: &Collector) -> Option<Written> {
    let Kind::Scalar { text, style } = &node.kind else {
        let message = format!("{} found, a single value expected", node.found());
        out.report(node.place, path, message, None);
        return None;
    };
    out.hear(|| Ask::Text(path.to_owned()));
    Some(Written { path: path.to_owned(), text: text.clone(), style: *style, place: node.place })
}

/// The entries of a map whose keys are names that a person chose.
pub(crate) fn named<'n>(node: &'n Node, path: &str, out: &Collector) -> Vec<(String, Field<'n>)> {
    let Kind::Map(entries) = &node.kind else {
        if node.found() != "nothing" {
            let message = format!("{} found, a map of names expected", node.found());
            out.report(node.place, path, message, None);
        }
        return Vec::new();
    };
    out.hear(|| Ask::Names(path.to_owned()));
    entries
        .iter()
        .map(|entry| {
            let path = child(path, &entry.key);
            let fits = entry.key.len() <= 64
                && entry.key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !fits {
                let message = format!(
                    "`{}` is no name: 1 to 64 letters, digits, `_` or `-` are expected",
                    entry.key
                );
                out.report(entry.place, &path, message, None);
            }
            (entry.key.clone(), Field { path, key_place: entry.place, node: &entry.value })
        })
        .collect()
}

pub(crate) fn items<'n>(node: &'n Node, path: &str, out: &Collector) -> &'n [Node] {
    if let Kind::List(items) = &node.kind {
        out.hear(|| Ask::Items(path.to_owned()));
        return items;
    }
    if node.found() != "nothing" {
        out.report(node.place, path, format!("{} found, a list expected", node.found()), None);
    }
    &[]
}

/// One of a closed set of words.
pub(crate) fn word(written: &Written, allowed: &[&str], out: &Collector) -> bool {
    let words = || allowed.iter().map(|word| (*word).to_owned()).collect();
    out.hear(|| Ask::Word(written.path.clone(), words()));
    let is_allowed = allowed.contains(&written.text.as_str());
    if !is_allowed {
        let mut allowed = allowed.to_vec();
        allowed.sort_unstable();
        let help = Some(format!("allowed: {}", allowed.join(", ")));
        out.report(written.place, &written.path, format!("`{}` found", written.text), help);
    }
    is_allowed
}
