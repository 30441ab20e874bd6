//! From an address to an open, migrated store.
//!
//! Two processes may open one fresh database at the same moment, so migrations run under a lock:
//! an advisory lock on Postgres, the write lock on SQLite. A database that a newer release has
//! migrated is used as long as its `schema_compat` rows allow this release, so that an upgrade
//! can be taken back.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, PgConnection, PgPool, SqlitePool};

use super::error::unavailable;
use super::{Db, Store, StoreError, on_db};

static MIGRATIONS: Migrator = {
    let mut migrations = sqlx::migrate!("../migrations");
    // Versions that only a newer release knows are judged by `schema_compat`, not refused here.
    migrations.ignore_missing = true;
    migrations
};

/// How long a statement waits for a connection, or SQLite for another process's write.
const PATIENCE: Duration = Duration::from_secs(5);
/// A page of the web face and a few command lines at once; more would wait for the disk anyway.
const SQLITE_READERS: u32 = 4;
/// Far below the 100 that Postgres grants by default, which a standby shares.
const POSTGRES_CONNECTIONS: u32 = 16;

/// What an address names.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Memory,
    File(&'a str),
    Postgres,
}

impl Store {
    /// Opens `sqlite:PATH`, a bare path, `sqlite::memory:` or `postgres://…`, creates what is
    /// missing of an SQLite file, and migrates.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let db = match place(url)? {
            Place::Memory => open_memory().await?,
            Place::File(path) => open_file(path).await?,
            Place::Postgres => open_postgres(url).await?,
        };
        let store = Self { db };
        store.migrate().await?;
        store.refuse_if_too_new(env!("CARGO_PKG_VERSION")).await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let migrated = match &self.db {
            Db::Sqlite { writer, .. } => migrate_sqlite(writer).await,
            Db::Postgres(pool) => MIGRATIONS.run(pool).await.map_err(sqlx::Error::from),
        };
        migrated.map_err(unavailable("migrate its tables"))
    }

    async fn refuse_if_too_new(&self, release: &'static str) -> Result<(), StoreError> {
        const COMPAT: &str =
            "SELECT version, oldest_release FROM schema_compat WHERE version > $1 ORDER BY version";
        let newest_known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        let newer: Vec<(i64, String)> =
            on_db!(self, write, |p| sqlx::query_as(COMPAT).bind(newest_known).fetch_all(p).await)
                .map_err(unavailable("read which releases it is for"))?;

        let ours = release_number(release).expect("the package version is three numbers");
        let mut refused = None;
        for (version, oldest_release) in newer {
            let oldest =
                release_number(&oldest_release).ok_or_else(|| StoreError::Inconsistent {
                    table: "schema_compat",
                    column: "oldest_release",
                    id: version.to_string(),
                    why: format!("`{oldest_release}` is no release"),
                })?;
            let strictest = refused.as_ref().map_or(ours, |(_, _, strictest)| *strictest);
            if oldest > strictest {
                refused = Some((version, oldest_release, oldest));
            }
        }
        match refused {
            None => Ok(()),
            Some((found, oldest_release, _)) => {
                Err(StoreError::NewerDatabase { found, newest_known, oldest_release })
            }
        }
    }
}

fn place(url: &str) -> Result<Place<'_>, StoreError> {
    let refuse = |why: &str| {
        Err(StoreError::Address { given: without_credentials(url), why: why.to_owned() })
    };
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Place::Postgres);
    }
    let path = match url.strip_prefix("sqlite:") {
        Some(path) => path.strip_prefix("//").unwrap_or(path),
        None if url.contains("://") => {
            return refuse("expected postgres://…, sqlite:PATH or a path");
        }
        None => url,
    };
    match path {
        "" => refuse("the path is empty; write sqlite:PATH, for example sqlite:shoal.sqlite"),
        ":memory:" => Ok(Place::Memory),
        path => Ok(Place::File(path)),
    }
}

/// The address as it may be shown: nothing between the scheme and the host.
fn without_credentials(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) =
                rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// One connection, never given up: the database lives and dies with it.
async fn open_memory() -> Result<Db, StoreError> {
    let options = SqliteConnectOptions::from_str("sqlite::memory:")
        .expect("the address of a database in memory is well formed");
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
        .map_err(unavailable("open a database in memory"))?;
    Ok(Db::Sqlite { readers: writer.clone(), writer })
}

async fn open_file(path: &str) -> Result<Db, StoreError> {
    if let Some(directory) = Path::new(path).parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(|error| StoreError::Address {
            given: path.to_owned(),
            why: format!("its directory cannot be created: {error}"),
        })?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A crash of the machine may lose the last commits but never breaks the file; a crash of
        // the process loses nothing.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(PATIENCE);
    let failed = |source: sqlx::Error| match source.as_database_error() {
        Some(error) => StoreError::Address {
            given: path.to_owned(),
            why: format!("{}; choose a path that this process may write", error.message()),
        },
        None => StoreError::Unavailable { doing: format!("open `{path}`"), source },
    };
    let pool = |connections| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(PATIENCE)
            // A disk that was full ends transactions by itself; a connection that still believes in one
            // would refuse every other for ever.
            .before_acquire(|connection, _| {
                let is_free = !connection.is_in_transaction();
                Box::pin(async move { Ok(is_free) })
            })
    };
    let writer = pool(1).connect_with(options.clone()).await.map_err(failed)?;
    let readers = pool(SQLITE_READERS).connect_with(options).await.map_err(failed)?;
    Ok(Db::Sqlite { writer, readers })
}

async fn open_postgres(url: &str) -> Result<Db, StoreError> {
    let shown = without_credentials(url);
    let address = |why| StoreError::Address { given: shown.clone(), why };
    let mut options = PgConnectOptions::from_str(url)
        .map_err(|error| address(error.to_string()))?
        .application_name("shoal-control-plane");
    if !names_user(url) && std::env::var_os("PGUSER").is_none() {
        options = options.username(&own_name().map_err(address)?);
    }
    // The pool would try again until its time is over and then hide why it could not connect.
    let away = |source: sqlx::Error| {
        let why = match source.as_database_error() {
            Some(refusal) => refusal.message().to_owned(),
            None => source.to_string(),
        };
        StoreError::Unavailable { doing: format!("reach `{shown}`: {why}"), source }
    };
    let first = tokio::time::timeout(PATIENCE, PgConnection::connect_with(&options))
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
        .map_err(away)?;
    first.close().await.map_err(away)?;
    let pool: PgPool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(PATIENCE)
        .connect_with(options)
        .await
        .map_err(away)?;
    Ok(Db::Postgres(pool))
}

/// Whether an address of Postgres says as whom to log in.
fn names_user(url: &str) -> bool {
    let (place, options) = url.split_once('?').unwrap_or((url, ""));
    let authority = place.split_once("://").map_or("", |(_, rest)| rest).split('/').next();
    let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    user.is_some_and(|user| !user.is_empty() && !user.starts_with(':'))
        || options.split('&').any(|option| option.starts_with("user="))
}

/// The name of this process's user, which is whom `psql` logs in as.
fn own_name() -> Result<String, String> {
    let uid = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => Ok(user.name),
        _ => Err(format!(
            "user {uid} has no name here; write one before the host, like postgres://shoal@db/shoal"
        )),
    }
}

/// All migrations in one transaction, so that a second process waits for its end.
async fn migrate_sqlite(writer: &SqlitePool) -> Result<(), sqlx::Error> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    MIGRATIONS.run_direct(None, &mut *tx, false).await?;
    tx.commit().await
}

/// `1.12.3` as numbers that compare; what follows a `-` is not looked at.
fn release_number(release: &str) -> Option<(u64, u64, u64)> {
    let mut parts = release.split('-').next()?.split('.').map(str::parse);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Some((major, minor, patch)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
