//! The shipped Grafana dashboards: every SQL query runs on a real Postgres, every PromQL name is
//! one that `/metrics` writes.

use std::path::{Path, PathBuf};

use serde_json::Value;
use shoal_control_plane::metrics::NAMES;

use crate::databases::Opened;
use crate::fixtures::{change, new_run, run_id};

fn dashboards() -> Vec<(PathBuf, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana/dashboards");
    let mut found: Vec<(PathBuf, Value)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let value = serde_json::from_str(&text).unwrap();
            (path, value)
        })
        .collect();
    found.sort_by_key(|(path, _)| path.clone());
    assert!(found.len() >= 2, "{found:?}");
    found
}

/// Every text under a key of that name.
fn texts(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == key => found.push(text.to_owned()),
                    _ => texts(value, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, key, found)),
        _ => {}
    }
}

/// As Grafana sends it for a chosen run and any time.
fn as_sent(sql: &str) -> String {
    let mut sql = sql.replace("$run", "steady-heron").replace("$scenario", "telemetry");
    while let Some(at) = sql.find("$__timeFilter(") {
        let open = at + "$__timeFilter".len();
        let mut depth = 0;
        let length = sql[open..].find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let close = open + length.expect("the macro is closed");
        let column = sql[open + 1..close].to_owned();
        sql.replace_range(at..=close, &format!("({column}) > to_timestamp(0)"));
    }
    sql
}

#[tokio::test]
async fn every_query_of_the_dashboards_runs_on_postgres() {
    let opened = Opened::postgres().await;
    let run = run_id(1);
    opened.store.insert_run(&new_run(run, "steady-heron")).await.unwrap();
    let over = change(run, shoal_domain::run::Phase::Finished);
    opened.store.change_run(&over, &[]).await.unwrap();
    let pool = sqlx::PgPool::connect(&opened.url).await.unwrap();
    let mut n = 0;
    for (path, dashboard) in dashboards() {
        let mut queries = Vec::new();
        texts(&dashboard["panels"], "rawSql", &mut queries);
        for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
            if variable["datasource"]["type"] == "postgres" {
                queries.extend(variable["query"].as_str().map(str::to_owned));
            }
        }
        for sql in queries {
            let sent = as_sent(&sql);
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sent.clone())).fetch_all(&pool).await;
            assert!(done.is_ok(), "{}: {sent}: {done:?}", path.display());
            n += 1;
        }
    }
    assert!(n >= 10, "{n}");
    pool.close().await;
}

#[test]
fn every_name_in_promql_is_one_that_is_written() {
    let known = |word: &str| {
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).filter(
                |base| NAMES.iter().any(|(name, kind, _)| name == base && *kind == "histogram"),
            );
        NAMES.iter().any(|(name, ..)| *name == base.unwrap_or(word))
    };
    let mut n = 0;
    for (path, dashboard) in dashboards() {
        let mut queries = Vec::new();
        texts(&dashboard, "expr", &mut queries);
        texts(&dashboard["templating"], "query", &mut queries);
        for query in queries {
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for word in words.filter(|word| word.starts_with("shoal_")) {
                assert!(known(word), "{}: `{word}` in {query}", path.display());
                n += 1;
            }
        }
    }
    assert!(n >= 10, "{n}");
}
