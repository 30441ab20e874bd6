//! The files of a run: written with it, never changed, gone with it.

use shoal_domain::ids::RunId;
use sqlx::FromRow;

use super::error::unavailable;
use super::{Store, StoreError, Tx, in_tx, on_db};

#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RunFile {
    /// Relative to the scenario.
    pub path: String,
    pub sha256: String,
    pub body: Vec<u8>,
}

pub(super) async fn insert(
    tx: &mut Tx,
    run_id: RunId,
    files: &[RunFile],
) -> Result<(), StoreError> {
    const INSERT: &str =
        "INSERT INTO run_files (run_id, path, sha256, body) VALUES ($1, $2, $3, $4)";
    for file in files {
        in_tx!(*tx, |c| sqlx::query(INSERT)
            .bind(run_id.to_string())
            .bind(&file.path)
            .bind(&file.sha256)
            .bind(&file.body)
            .execute(c)
            .await
            .map(drop))
        .map_err(unavailable("keep the files of a run"))?;
    }
    Ok(())
}

impl Store {
    /// By path.
    pub async fn run_files(&self, run_id: RunId) -> Result<Vec<RunFile>, StoreError> {
        const FILES: &str =
            "SELECT path, sha256, body FROM run_files WHERE run_id = $1 ORDER BY path";
        on_db!(self, read, |p| sqlx::query_as(FILES).bind(run_id.to_string()).fetch_all(p).await)
            .map_err(unavailable("read the files of a run"))
    }
}
