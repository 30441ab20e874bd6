//! A real Postgres for tests: one private cluster per test process, one database per test.
//!
//! `TEST_DATABASE_URL` names a server to use instead; without it the binaries of this machine are
//! started on a Unix socket only, so parallel runs never meet. Durability is off: nothing here
//! outlives the process. Invariant: without Postgres the test fails with the ways to get it, and
//! after the process neither a server nor a directory is left.

mod cluster;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};

use cluster::Cluster;

use crate::faults::Target;

/// Names a running server whose user may create databases.
pub const URL_VARIABLE: &str = "TEST_DATABASE_URL";

/// A fresh, empty database.
#[derive(Debug)]
pub struct Database {
    url: String,
    name: String,
    /// The server it must be dropped from; none for our own cluster, which vanishes as a whole.
    drop_at: Option<String>,
}

impl Database {
    /// Panics when there is no Postgres: a test that needs one must not pass without.
    pub async fn create() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let external = std::env::var(URL_VARIABLE).ok().filter(|url| !url.is_empty());
        let server = external.clone().unwrap_or_else(|| own_cluster().url("postgres"));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("shoal_test_{}_{number}", std::process::id());
        // template0 takes no connections, so tests do not disturb each other while it is copied.
        execute(&server, format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .unwrap_or_else(|error| panic!("cannot create a test database: {error}"));
        Self { url: with_database(&server, &name), name, drop_at: external }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where its server listens: what a [`crate::faults::FaultProxy`] carries to.
    pub fn server(&self) -> Target {
        match own_socket(&self.url) {
            Some(path) => Target::Unix(path),
            None => {
                let options = PgConnectOptions::from_str(&self.url).expect("it is in use");
                let host = (options.get_host(), options.get_port());
                let addr = host.to_socket_addrs().ok().and_then(|mut found| found.next());
                Target::Tcp(addr.expect("a host that tests connect to has an address"))
            }
        }
    }

    /// The same database, reached through `addr`.
    pub fn url_through(&self, addr: SocketAddr) -> String {
        let (scheme, rest) = self.url.split_once("://").expect("it is a URL");
        let (authority, path) = rest.split_once('/').expect("it names a database");
        let user = authority.rsplit_once('@').map_or("postgres", |(user, _)| user);
        format!("{scheme}://{user}@{addr}/{path}")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(server) = self.drop_at.take() else { return };
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A drop cannot await, and the test's runtime may be going down: use one of its own.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                // A database left on a test server is untidy, not a reason to fail a test.
                let _ = runtime.block_on(execute(&server, sql));
            }
        });
        let _ = dropping.join();
    }
}

fn own_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    match CLUSTER.get_or_init(Cluster::start) {
        Ok(cluster) => cluster,
        Err(why) => panic!(
            "this test needs Postgres and {why}; install it (apt-get install postgresql, brew \
             install postgresql), or set {URL_VARIABLE}=postgres://user:password@host/postgres \
             to a server on which databases may be created, or start one with docker run -d -p \
             5432:5432 -e POSTGRES_PASSWORD=test postgres and set {URL_VARIABLE} to it"
        ),
    }
}

async fn execute(server: &str, sql: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnectOptions::from_str(server)?.connect().await?;
    connection.execute(AssertSqlSafe(sql)).await?;
    Ok(())
}

/// The socket of our own cluster, whose directory stands in place of a host.
fn own_socket(url: &str) -> Option<PathBuf> {
    let host = url.split_once('@')?.1.split('/').next()?;
    let dir = host.contains("%2F").then(|| host.replace("%2F", "/"))?;
    Some(PathBuf::from(dir).join(".s.PGSQL.5432"))
}

/// `url` with another database; its options stay.
fn with_database(url: &str, database: &str) -> String {
    let (base, options) = match url.split_once('?') {
        Some((base, options)) => (base, Some(options)),
        None => (url, None),
    };
    let authority = base.find("://").map_or(0, |at| at + 3);
    let end = base[authority..].find('/').map_or(base.len(), |slash| authority + slash);
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    format!("{}/{database}{options}", &base[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_keeps_the_rest_of_the_url() {
        for (url, expected) in [
            ("postgres://u:p@h:5432/a", "postgres://u:p@h:5432/t"),
            ("postgres://h", "postgres://h/t"),
            ("postgres://h/a?sslmode=disable", "postgres://h/t?sslmode=disable"),
        ] {
            assert_eq!(with_database(url, "t"), expected);
        }
    }

    #[tokio::test]
    async fn two_databases_do_not_see_each_other() {
        let (one, other) = (Database::create().await, Database::create().await);
        execute(one.url(), "CREATE TABLE here (id BIGINT)".to_owned()).await.unwrap();
        assert!(execute(other.url(), "SELECT id FROM here".to_owned()).await.is_err());
        execute(one.url(), "SELECT id FROM here".to_owned()).await.unwrap();
    }
}
