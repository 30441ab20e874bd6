//! Lines as they are logged, through a subscriber of the test's own thread.

use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// Its crate is the test's own, so that parallel tests do not write into each other's books.
fn logged(book: &Book, body: impl FnOnce()) -> Vec<Line> {
    let subscriber = tracing_subscriber::registry().with(layer());
    tracing::subscriber::with_default(subscriber, body);
    book.now(usize::MAX)
}

#[test]
fn a_line_keeps_its_fields_and_knows_its_run_by_itself_or_by_its_span() {
    let book = Book::open("one");
    let lines = logged(&book, || {
        let _in = book.span().entered();
        let shard = tracing::info_span!("run shard", run = "run_1", assignment = "run_1.a");
        shard.in_scope(|| tracing::warn!(code = "SH0301", n = 3, ok = true, "refused"));
        tracing::info!(run = %"run_2", "preparing");
        tracing::info!("session open");
    });
    let told: Vec<_> =
        lines.iter().map(|line| (line.number, line.run.as_deref(), line.text.as_str())).collect();
    assert_eq!(
        told,
        [(0, Some("run_1"), "refused"), (1, Some("run_2"), "preparing"), (2, None, "session open")]
    );
    assert_eq!(lines[0].fields, r#"{"code":"SH0301","n":3,"ok":true}"#);
    assert_eq!((lines[0].level, lines[0].target), (Level::WARN, "shoal_service_kit::logs::tests"));
}

#[test]
fn every_part_has_its_own_lines() {
    let (one, other) = (Book::open("one"), Book::open("other"));
    let lines = logged(&one, || {
        one.span().in_scope(|| tracing::info!("mine"));
        other.span().in_scope(|| tracing::info!("yours"));
    });
    assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["mine"]);
    assert_eq!(other.now(9).len(), 1);
}

#[test]
fn what_others_say_and_what_is_below_info_is_not_kept() {
    let book = Book::open("one");
    let lines = logged(&book, || {
        let _in = book.span().entered();
        tracing::debug!("too fine");
        tracing::error!(target: "some_library", password = "hunter2", "no");
    });
    assert_eq!(lines, []);
}

#[test]
fn a_full_book_drops_its_oldest_lines_and_says_how_many() {
    let book = Book::open("one");
    let lines = logged(&book, || {
        let _in = book.span().entered();
        (0..MOST_LINES + 5).for_each(|n| tracing::info!(n, "line"));
    });
    assert_eq!((lines.len(), lines[0].number, lines[0].dropped), (MOST_LINES, 5, 5));
    assert_eq!(lines[1].dropped, 0);
    book.forget(lines[9].number);
    assert_eq!(book.now(1)[0].number, 15);
}

#[test]
fn a_line_of_a_megabyte_is_cut() {
    let book = Book::open("one");
    let lines = logged(&book, || {
        let _in = book.span().entered();
        let long = "é".repeat(1_000_000);
        tracing::info!(why = long, "{long}");
    });
    assert!(lines[0].text.len() <= MOST_TEXT && lines[0].text.starts_with('é'));
    assert_eq!(lines[0].fields, r#"{"cut":2000010}"#);
}

#[tokio::test]
async fn a_reader_waits_for_the_first_line() {
    let book = Arc::new(Book::open("one"));
    let (reader, writer) = (Arc::clone(&book), Arc::clone(&book));
    let write = async move {
        writer.say("something");
    };
    let (lines, ()) = tokio::join!(reader.lines(10), write);
    assert_eq!(lines.len(), 1);
}
