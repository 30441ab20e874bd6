//! How the store fails, by what the caller can do about it: wait, upgrade, read again, or look
//! at the row. Each `Display` states its own level; causes are the `source`.

/// Why a store operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address given to [`Store::open`](super::Store::open) names no database.
    #[error("cannot use `{given}` as the store: {why}")]
    Address { given: String, why: String },
    /// The database is down, unreachable, full or refuses the statement.
    #[error("the store cannot {doing}")]
    Unavailable { doing: String, source: sqlx::Error },
    #[error(
        "the store was migrated to version {found} by a newer release (this one knows \
         {newest_known}); run release {oldest_release} or later"
    )]
    NewerDatabase { found: i64, newest_known: i64, oldest_release: String },
    /// Somebody else was faster, or the name is taken; read again before another try.
    #[error("{what}")]
    Conflict { what: String },
    /// Another process has taken the lead of this database.
    #[error("another control plane is in charge of this database by now")]
    NotInCharge,
    /// A row that no release of Shoal writes; only this request fails.
    #[error("the store holds an impossible row: table {table}, column {column}, id {id}: {why}")]
    Inconsistent { table: &'static str, column: &'static str, id: String, why: String },
}

impl StoreError {
    pub(super) fn conflict(what: impl Into<String>) -> Self {
        Self::Conflict { what: what.into() }
    }
}

/// `doing` completes "the store cannot ...".
pub(super) fn unavailable(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Unavailable { doing: doing.to_owned(), source }
}

/// Like [`unavailable`], but a taken key becomes a conflict that says `what` is taken.
pub(super) fn unless_taken(
    doing: &'static str,
    what: impl FnOnce() -> String,
) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| match source.as_database_error() {
        Some(error) if error.is_unique_violation() => StoreError::conflict(what()),
        _ => unavailable(doing)(source),
    }
}
