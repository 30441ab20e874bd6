//! Request logs: once with their delta, read second by second, gone with their run.

use shoal_control_plane::store::{IncomingDelta, IncomingRequests, Outcome, RequestTotals, Store};
use shoal_domain::ids::RunId;
use shoal_domain::run::Phase;

use crate::fixtures::{change, delta, ingest, run_with_two_grants};

crate::on_both_databases!(
    a_log_is_there_once_and_only_if_its_delta_is,
    logs_are_read_window_by_window,
    logs_go_with_their_run,
);

fn logged(assignment: &str, seq: i64, body: &[u8]) -> IncomingDelta {
    let requests = IncomingRequests { n_rows: 2, dropped: 1, body: body.to_vec() };
    IncomingDelta { requests, ..delta(assignment, seq) }
}

async fn windows(store: &Store, run: RunId) -> Vec<(i64, Vec<Vec<u8>>)> {
    let (mut windows, mut after) = (Vec::new(), -1);
    while let Some(window) = store.next_request_window(run, after).await.unwrap() {
        let logs = store.request_logs(run, window).await.unwrap();
        assert!(logs.iter().all(|log| log.agent_id == "agent-1" && log.dropped == 1));
        windows.push((window, logs.into_iter().map(|log| log.body).collect()));
        after = window;
    }
    windows
}

async fn a_log_is_there_once_and_only_if_its_delta_is(store: &Store) {
    let run = run_with_two_grants(store).await;
    assert_eq!(store.request_totals(run).await.unwrap(), RequestTotals::default());
    let batch =
        [logged("a", 0, b"abc"), delta("a", 1), logged("c", 0, b"x"), logged("a", 0, b"abc")];
    use Outcome::{AlreadyStored, Stored, UnknownAssignment};
    assert_eq!(ingest(store, &batch).await, [Stored, Stored, UnknownAssignment, AlreadyStored]);
    ingest(store, &batch).await;
    let totals = RequestTotals { n_rows: 2, dropped: 1, n_bytes: 3 };
    assert_eq!(store.request_totals(run).await.unwrap(), totals);
    assert_eq!(windows(store, run).await, [(0, vec![b"abc".to_vec()])]);
}

async fn logs_are_read_window_by_window(store: &Store) {
    let run = run_with_two_grants(store).await;
    ingest(store, &[logged("b", 0, b"b0"), logged("a", 2, b"a2"), logged("a", 0, b"a0")]).await;
    let expected = [(0, vec![b"a0".to_vec(), b"b0".to_vec()]), (2, vec![b"a2".to_vec()])];
    assert_eq!(windows(store, run).await, expected);
}

async fn logs_go_with_their_run(store: &Store) {
    let run = run_with_two_grants(store).await;
    ingest(store, &[logged("a", 0, b"abc")]).await;
    store.change_run(&change(run, Phase::Finished), &[]).await.unwrap();
    assert!(store.delete_run(run).await.unwrap());
    assert_eq!(store.next_request_window(run, -1).await.unwrap(), None);
}
