//! Opening: addresses, both kinds of database alike, releases that differ, processes that share.

use shoal_control_plane::store::{Found, RunFilter, Store, StoreError};

use crate::databases::{Opened, execute};
use crate::fixtures::{new_run, run_id};

#[tokio::test]
async fn a_file_is_created_with_its_directory_and_keeps_its_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/er/shoal.sqlite");
    let store = Store::open(path.to_str().unwrap()).await.unwrap();
    store.insert_run(&new_run(run_id(1), "steady-heron")).await.unwrap();
    store.close().await;

    let store = Store::open(&format!("sqlite:{}", path.display())).await.unwrap();
    assert!(store.run(run_id(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_database_in_memory_is_shared_by_clones_only() {
    let (one, other) = (
        Store::open("sqlite::memory:").await.unwrap(),
        Store::open("sqlite::memory:").await.unwrap(),
    );
    one.insert_run(&new_run(run_id(1), "steady-heron")).await.unwrap();
    assert!(one.clone().run(run_id(1)).await.unwrap().is_some());
    assert_eq!(other.find_run("last").await.unwrap(), Found::None);
}

#[tokio::test]
async fn a_path_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let under_a_file = file.join("shoal.sqlite");
    let error = Store::open(under_a_file.to_str().unwrap()).await.unwrap_err();
    assert!(matches!(error, StoreError::Address { .. }), "{error:?}");
    assert!(error.to_string().contains("its directory cannot be created"), "{error}");

    let error = Store::open(directory.path().to_str().unwrap()).await.unwrap_err();
    assert!(matches!(error, StoreError::Address { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("notes.txt");
    let text = "not a database\n".repeat(100);
    std::fs::write(&file, &text).unwrap();
    let error = Store::open(file.to_str().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("file is not a database"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn a_postgres_that_is_down_is_named_without_its_password() {
    let free_port =
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://shoal:hunter2@127.0.0.1:{free_port}/shoal");
    let error = Store::open(&url).await.unwrap_err();
    let text = error.to_string();
    let what = format!("the store cannot reach `postgres://127.0.0.1:{free_port}/shoal`: ");
    assert!(text.starts_with(&what) && text.contains("Connection refused"), "{text}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_may_open_a_fresh_database_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", directory.path().join("shoal.sqlite").display());
    let database = shoal_testkit::postgres::Database::create().await;
    for url in [file.as_str(), database.url()] {
        let (one, other) = tokio::join!(Store::open(url), Store::open(url));
        let (one, other) = (one.unwrap(), other.unwrap());
        one.insert_run(&new_run(run_id(1), "steady-heron")).await.unwrap();
        assert!(other.run(run_id(1)).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_may_write_one_sqlite_file() {
    let opened = Opened::sqlite().await;
    let other = Store::open(&opened.url).await.unwrap();
    let write = async |store: &Store, parity: u64| {
        for n in (0..60).filter(|n| n % 2 == parity) {
            store.insert_run(&new_run(run_id(n), &format!("run-{n}"))).await.unwrap();
            store.append_events(run_id(n), &[]).await.unwrap();
        }
    };
    tokio::join!(write(&opened.store, 0), write(&other, 1));
    assert_eq!(other.list_runs(&RunFilter::default(), None, 100).await.unwrap().len(), 60);
}

async fn newer_databases_are_judged_by_what_they_say(opened: Opened) {
    let url = opened.url.as_str();
    execute(url, "INSERT INTO schema_compat (version, oldest_release) VALUES (900, '0.0.1')").await;
    Store::open(url).await.unwrap();

    execute(url, "INSERT INTO schema_compat (version, oldest_release) VALUES (901, '99.2.0')")
        .await;
    let error = Store::open(url).await.unwrap_err();
    assert!(matches!(error, StoreError::NewerDatabase { found: 901, .. }), "{error:?}");
    assert!(error.to_string().ends_with("run release 99.2.0 or later"), "{error}");

    execute(url, "UPDATE schema_compat SET oldest_release = 'soon' WHERE version = 901").await;
    let error = Store::open(url).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the store holds an impossible row: table schema_compat, column oldest_release, id 901: \
         `soon` is no release"
    );
}

/// A row of sqlx's own list that this release has no file for must not stop it either.
async fn unknown_migrations_alone_refuse_nothing(opened: Opened) {
    let copy = "INSERT INTO _sqlx_migrations (version, description, success, checksum, \
         execution_time) SELECT 900, 'newer', success, checksum, execution_time \
         FROM _sqlx_migrations WHERE version = 1";
    execute(&opened.url, copy).await;
    Store::open(&opened.url).await.unwrap();
}

#[tokio::test]
async fn sqlite_of_a_newer_release_is_refused_when_it_says_so() {
    newer_databases_are_judged_by_what_they_say(Opened::sqlite().await).await;
    unknown_migrations_alone_refuse_nothing(Opened::sqlite().await).await;
}

#[tokio::test]
async fn postgres_of_a_newer_release_is_refused_when_it_says_so() {
    newer_databases_are_judged_by_what_they_say(Opened::postgres().await).await;
    unknown_migrations_alone_refuse_nothing(Opened::postgres().await).await;
}

#[tokio::test]
async fn an_impossible_row_is_refused_by_name() {
    for opened in [Opened::sqlite().await, Opened::postgres().await] {
        opened.store.insert_run(&new_run(run_id(1), "steady-heron")).await.unwrap();
        execute(&opened.url, "UPDATE runs SET seed = 'many'").await;
        let error = opened.store.run(run_id(1)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the store holds an impossible row: table runs, column seed, id {}: `many` is no \
                 64-bit number",
                run_id(1)
            )
        );
    }
}

#[tokio::test]
async fn both_databases_end_with_the_same_tables_and_columns() {
    let (sqlite, postgres) = (Opened::sqlite().await, Opened::postgres().await);
    let pool = sqlx::SqlitePool::connect(&sqlite.url).await.unwrap();
    let in_sqlite: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT m.name, c.name, c.\"notnull\" FROM sqlite_master m, pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name NOT LIKE '_sqlx%' \
         ORDER BY 1, 2",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let pool = sqlx::PgPool::connect(&postgres.url).await.unwrap();
    let in_postgres: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text, \
         CASE WHEN is_nullable = 'NO' THEN 1::bigint ELSE 0::bigint END \
         FROM information_schema.columns WHERE table_schema = 'public' \
         AND table_name NOT LIKE '\\_sqlx%' ORDER BY 1, 2",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(in_sqlite.len() > 50);
    assert_eq!(in_sqlite, in_postgres);
}
