//! From what `tracing` says to lines in books. Spans give their lines a book and a run.

use std::fmt;
use std::sync::{Arc, PoisonError};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::{BOOKS, MOST_TEXT, Shared, said};

/// Target of the spans that say whose book it is, which is nobody else's business. At INFO: a filter with
/// DEBUG in it would let `enabled!` in libraries through, behind which events are lost.
pub(crate) const SPAN: &str = "book_of";

/// For the subscriber of the process. Only what our own crates say: a library may name what is secret.
pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    // Static, as a filter that is asked each time loses events behind a library's `enabled!`.
    let ours =
        Targets::new().with_target("shoal", LevelFilter::INFO).with_target(SPAN, LevelFilter::INFO);
    Capture.with_filter(ours)
}

struct Capture;

/// What a span says of the lines in it.
#[derive(Debug, Clone, Default)]
struct Scope {
    book: Option<u64>,
    run: Option<Arc<str>>,
}

impl Visit for Scope {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "book" {
            self.book = Some(value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "run" {
            self.run = Some(value.into());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "run" {
            self.run = Some(format!("{value:?}").into());
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let above = span.parent().and_then(|span| span.extensions().get::<Scope>().cloned());
        let mut scope = above.unwrap_or_default();
        attributes.record(&mut scope);
        span.extensions_mut().insert(scope);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let books = BOOKS.read().unwrap_or_else(PoisonError::into_inner);
        if books.is_empty() {
            return;
        }
        let span = context.event_span(event);
        let scope = span.and_then(|span| span.extensions().get::<Scope>().cloned());
        let scope = scope.unwrap_or_default();
        let (target, level) = (event.metadata().target(), *event.metadata().level());
        let of_crate = target.split("::").next().unwrap_or_default();
        let is_one_of_them = books.iter().any(|book| book.of_crate == of_crate);
        let is_for = |book: &Shared| match scope.book {
            Some(id) => book.id == id,
            None => book.of_crate == of_crate || !is_one_of_them,
        };
        let mut words = Words::default();
        event.record(&mut words);
        let words = words.cut();
        for book in books.iter().filter(|book| is_for(book)) {
            let run = words.run.clone().or_else(|| scope.run.clone());
            book.write(said(level, target, run, words.clone()));
        }
    }
}

/// What one event says.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    pub(super) text: String,
    run: Option<Arc<str>>,
    values: Map<String, Value>,
    /// `values`, written.
    pub(super) fields: String,
}

impl Words {
    pub(super) fn of(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }.cut()
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.text = text,
            ("run", Value::String(run)) => self.run = Some(run.into()),
            (name, value) => {
                self.values.insert(name.to_owned(), value);
            }
        }
    }

    fn cut(mut self) -> Self {
        self.text.truncate(self.text.floor_char_boundary(MOST_TEXT));
        loop {
            self.fields = Value::Object(std::mem::take(&mut self.values)).to_string();
            if self.fields.len() <= MOST_TEXT {
                return self;
            }
            // Too long as a whole: it stays an object, and says that it was more.
            self.values.insert("cut".to_owned(), Value::from(self.fields.len()));
        }
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        self.put(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}
