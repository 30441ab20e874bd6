//! Agents, series, thresholds: plain rows.

use shoal_control_plane::store::{
    AgentRow, ObservedRow, QuarantineRow, SeriesRow, Store, StoreError, ThresholdRow,
};

use crate::fixtures::{new_run, run_id};

crate::on_both_databases!(
    an_agent_keeps_its_first_sight,
    a_quarantine_keeps_its_first_reason_until_it_is_lifted,
    series_say_what_their_numbers_mean,
    thresholds_are_replaced_as_a_whole,
    what_observers_saw_is_replaced_as_a_whole,
    the_store_answers_a_ping,
);

async fn an_agent_keeps_its_first_sight(store: &Store) {
    let mut agent = AgentRow {
        agent_id: "agent-1".to_owned(),
        incarnation: 1,
        build: "0.1.0".to_owned(),
        labels_json: r#"{"region":"eu"}"#.to_owned(),
        capacity_json: "{}".to_owned(),
        host_json: "{}".to_owned(),
        first_seen_us: 10,
        last_seen_us: 10,
    };
    store.upsert_agent(&agent).await.unwrap();
    store
        .upsert_agent(&AgentRow { agent_id: "agent-0".to_owned(), ..agent.clone() })
        .await
        .unwrap();

    let later = AgentRow { incarnation: 2, first_seen_us: 99, last_seen_us: 99, ..agent.clone() };
    store.upsert_agent(&later).await.unwrap();

    (agent.incarnation, agent.last_seen_us) = (2, 99);
    let agents = store.agents().await.unwrap();
    assert_eq!(agents.len(), 2);
    assert_eq!(agents[0].agent_id, "agent-0");
    assert_eq!(agents[1], agent);
}

async fn a_quarantine_keeps_its_first_reason_until_it_is_lifted(store: &Store) {
    let row = |why: &str, since_us| QuarantineRow {
        agent_id: "agent-1".to_owned(),
        why: why.to_owned(),
        since_us,
    };
    store.keep_quarantine(&row("7 slots where 5 were due", 10)).await.unwrap();
    store.keep_quarantine(&row("more of it", 20)).await.unwrap();
    assert_eq!(store.quarantined_agents().await.unwrap(), [row("7 slots where 5 were due", 10)]);
    store.lift_quarantine("agent-1").await.unwrap();
    store.lift_quarantine("agent-1").await.unwrap();
    assert_eq!(store.quarantined_agents().await.unwrap(), []);
}

async fn series_say_what_their_numbers_mean(store: &Store) {
    let run = run_id(1);
    let series = |number, name: &str| SeriesRow {
        series: number,
        operation: "publish".to_owned(),
        group_name: "meters".to_owned(),
        name: name.to_owned(),
    };
    let rows = [series(0, "reading"), series(1, "alarm")];
    assert!(matches!(store.insert_series(run, &rows).await, Err(StoreError::Unavailable { .. })));

    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    store.insert_series(run, &rows).await.unwrap();
    assert_eq!(store.series(run).await.unwrap(), rows);
    let again = store.insert_series(run, &rows).await.unwrap_err();
    assert!(matches!(again, StoreError::Conflict { .. }), "{again}");
}

async fn thresholds_are_replaced_as_a_whole(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let threshold = |position, value, breached_at_us| ThresholdRow {
        position,
        text: "meters.reading.response_time.p99 < 250ms".to_owned(),
        value,
        limit: 250.0,
        result: "PASSED".to_owned(),
        breached_at_us,
        report_json: "{}".to_owned(),
    };
    let first = [threshold(0, Some(0.1 + 0.2), None), threshold(1, None, Some(7))];
    store.put_thresholds(run, &first).await.unwrap();
    assert_eq!(store.thresholds(run).await.unwrap(), first);

    let second = [threshold(0, Some(260.5), Some(8))];
    store.put_thresholds(run, &second).await.unwrap();
    assert_eq!(store.thresholds(run).await.unwrap(), second);

    let twice = [threshold(0, None, None), threshold(0, None, None)];
    assert!(matches!(store.put_thresholds(run, &twice).await, Err(StoreError::Conflict { .. })));
    assert_eq!(store.thresholds(run).await.unwrap(), second);
}

async fn what_observers_saw_is_replaced_as_a_whole(store: &Store) {
    let run = run_id(1);
    store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let point = |from_s| ObservedRow {
        observer: 0,
        from_s,
        step_s: 1,
        name: "out".to_owned(),
        counts: std::array::from_fn(|n| n as i64),
        delays_us: std::array::from_fn(|n| (n % 2 == 0).then_some(n as i64 - 5)),
    };
    store.put_observed(run, &[point(0), point(1)]).await.unwrap();
    store.put_observed(run, &[point(1)]).await.unwrap();
    let twice = store.put_observed(run, &[point(1), point(1)]).await;
    assert!(matches!(twice, Err(StoreError::Conflict { .. })), "{twice:?}");
}

async fn the_store_answers_a_ping(store: &Store) {
    store.ping().await.unwrap();
}
