//! A fresh database of each kind, with its store. It is gone when this is dropped.

use shoal_control_plane::store::Store;
use shoal_testkit::postgres::Database;
use tempfile::TempDir;

pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) url: String,
    _keeps: Keeps,
}

enum Keeps {
    Directory { _directory: TempDir },
    Database { _database: Database },
}

impl Opened {
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("shoal.sqlite").display());
        let store = Store::open(&url).await.unwrap();
        Self { store, url, _keeps: Keeps::Directory { _directory: directory } }
    }

    pub(crate) async fn postgres() -> Self {
        let database = Database::create().await;
        let url = database.url().to_owned();
        let store = Store::open(&url).await.unwrap();
        Self { store, url, _keeps: Keeps::Database { _database: database } }
    }
}

/// Runs SQL behind the store's back.
pub(crate) async fn execute(url: &str, sql: &'static str) {
    if url.starts_with("sqlite:") {
        let pool = sqlx::SqlitePool::connect(url).await.unwrap();
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool.close().await;
    } else {
        let pool = sqlx::PgPool::connect(url).await.unwrap();
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool.close().await;
    }
}
