//! Lines of logs: once each, in order, bounded, gone with their run.

use shoal_control_plane::store::{LogRow, LogsAfter, NewLogLine, Store};
use shoal_domain::logs::{Level, LogLine, MOST_KEPT};

use crate::fixtures::{new_run, run_id};

crate::on_both_databases!(
    a_line_that_is_sent_again_is_there_once,
    lines_are_read_in_order_of_time_and_then_of_storing,
    the_newest_lines_of_each_agent_stay_and_the_others_are_counted,
    lines_of_a_run_that_is_not_there_are_left_out,
);

fn line(agent: &str, number: u64, at_us: u64) -> NewLogLine {
    let line = LogLine {
        number,
        at_us,
        level: Level::Warn,
        target: "shoal_agent".into(),
        run: Some(run_id(1)),
        text: format!("line {number}"),
        fields: r#"{"n":1}"#.into(),
        dropped: 0,
    };
    NewLogLine { run_id: run_id(1), agent_id: agent.into(), process: "p".into(), line }
}

async fn all(store: &Store) -> Vec<LogRow> {
    let through = store.newest_log(run_id(1)).await.unwrap();
    let after = LogsAfter::Time { at_us: i64::MIN, stored_n: -1, through };
    store.logs(run_id(1), after, 100_000).await.unwrap()
}

fn numbers(rows: &[LogRow]) -> Vec<(&str, u64)> {
    rows.iter().map(|row| (row.agent_id.as_str(), row.line.number)).collect()
}

async fn a_line_that_is_sent_again_is_there_once(store: &Store) {
    store.insert_run(&new_run(run_id(1), "calm-otter")).await.unwrap();
    store.add_logs(&[line("a", 0, 10), line("a", 1, 20)]).await.unwrap();
    store.add_logs(&[line("a", 1, 20), line("a", 2, 30), line("", 1, 5)]).await.unwrap();
    let next_process = NewLogLine { process: "q".into(), ..line("a", 0, 40) };
    store.add_logs(&[next_process]).await.unwrap();
    let rows = all(store).await;
    assert_eq!(numbers(&rows), [("", 1), ("a", 0), ("a", 1), ("a", 2), ("a", 0)]);
    assert_eq!(rows[1].line, line("a", 0, 10).line);
}

async fn lines_are_read_in_order_of_time_and_then_of_storing(store: &Store) {
    assert_eq!(store.newest_log(run_id(1)).await.unwrap(), -1);
    store.insert_run(&new_run(run_id(1), "calm-otter")).await.unwrap();
    store.add_logs(&[line("b", 0, 30), line("a", 0, 10)]).await.unwrap();
    store.add_logs(&[line("b", 1, 20), line("a", 1, 30)]).await.unwrap();
    assert_eq!(numbers(&all(store).await), [("a", 0), ("b", 1), ("b", 0), ("a", 1)]);

    let first = LogsAfter::Time { at_us: i64::MIN, stored_n: -1, through: 1 };
    let known = store.logs(run_id(1), first, 10).await.unwrap();
    assert_eq!(numbers(&known), [("a", 0), ("b", 0)]);
    let news = store.logs(run_id(1), LogsAfter::Stored(1), 10).await.unwrap();
    assert_eq!(numbers(&news), [("b", 1), ("a", 1)]);
    let at = LogsAfter::Time { at_us: 30, stored_n: 0, through: 3 };
    assert_eq!(numbers(&store.logs(run_id(1), at, 10).await.unwrap()), [("a", 1)]);
}

async fn the_newest_lines_of_each_agent_stay_and_the_others_are_counted(store: &Store) {
    store.insert_run(&new_run(run_id(1), "calm-otter")).await.unwrap();
    let n = MOST_KEPT as u64 + 10;
    let mut lines: Vec<NewLogLine> = (0..n).map(|number| line("a", number, number)).collect();
    lines[3].line.dropped = 7;
    lines.push(line("b", 0, 0));
    for chunk in lines.chunks(2_000) {
        store.add_logs(chunk).await.unwrap();
    }
    let rows = all(store).await;
    assert_eq!(rows.len(), MOST_KEPT + 1);
    assert_eq!(numbers(&rows)[..2], [("b", 0), ("a", 10)]);
    assert_eq!((rows[1].line.dropped, rows[2].line.dropped), (17, 0));
}

async fn lines_of_a_run_that_is_not_there_are_left_out(store: &Store) {
    store.add_logs(&[line("a", 0, 10)]).await.unwrap();
    assert_eq!(all(store).await, []);
    assert!(!store.has_part(run_id(1), "a").await.unwrap());
}
