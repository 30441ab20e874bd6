//! From what a person typed to a run: its id, its name, the beginning of its id, `last`, `last~1`.
//!
//! An exact id or name wins over a beginning, so a name can never be hidden by an id.

use super::error::unavailable;
use super::run_row::{RunRow, parse_run_id};
use super::{Store, StoreError, on_db};

/// What a reference means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    One(Box<RunRow>),
    None,
    /// Ids that begin so, newest first, at most `MOST_CANDIDATES`.
    Ambiguous(Vec<String>),
}

/// As many as a message can show.
const MOST_CANDIDATES: i64 = 8;

impl Store {
    pub async fn find_run(&self, reference: &str) -> Result<Found, StoreError> {
        if let Some(back) = runs_back(reference) {
            return self.one_of(self.ids_newest(back).await?).await;
        }
        let exact = self.ids_named(reference).await?;
        if !exact.is_empty() {
            return self.one_of(exact).await;
        }
        match id_prefix(reference) {
            Some(prefix) => self.one_of(self.ids_beginning(&prefix).await?).await,
            None => Ok(Found::None),
        }
    }

    async fn one_of(&self, ids: Vec<String>) -> Result<Found, StoreError> {
        let [id] = ids.as_slice() else {
            return Ok(if ids.is_empty() { Found::None } else { Found::Ambiguous(ids) });
        };
        // Pruned between the two reads counts as not there.
        let run = self.run(parse_run_id("runs", id)?).await?;
        Ok(run.map_or(Found::None, |run| Found::One(Box::new(run))))
    }

    async fn ids_newest(&self, back: i64) -> Result<Vec<String>, StoreError> {
        const NEWEST: &str = "SELECT run_id FROM runs ORDER BY run_id DESC LIMIT 1 OFFSET $1";
        on_db!(self, read, |p| sqlx::query_scalar(NEWEST).bind(back).fetch_all(p).await)
            .map_err(unavailable("find a run"))
    }

    async fn ids_named(&self, reference: &str) -> Result<Vec<String>, StoreError> {
        const NAMED: &str = "SELECT run_id FROM runs WHERE name = $1 OR run_id = $1 \
             ORDER BY CASE WHEN run_id = $1 THEN 0 ELSE 1 END LIMIT 1";
        on_db!(self, read, |p| sqlx::query_scalar(NAMED).bind(reference).fetch_all(p).await)
            .map_err(unavailable("find a run"))
    }

    async fn ids_beginning(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        const BEGINNING: &str =
            "SELECT run_id FROM runs WHERE run_id LIKE $1 ORDER BY run_id DESC LIMIT $2";
        on_db!(self, read, |p| sqlx::query_scalar(BEGINNING)
            .bind(format!("{prefix}%"))
            .bind(MOST_CANDIDATES)
            .fetch_all(p)
            .await)
        .map_err(unavailable("find a run"))
    }
}

/// `last` is 0 back, `last~2` is 2 back.
fn runs_back(reference: &str) -> Option<i64> {
    match reference.strip_prefix("last")? {
        "" => Some(0),
        rest => rest.strip_prefix('~')?.parse().ok().filter(|back| *back >= 0),
    }
}

/// A beginning of an id, with or without `run_`, in any case. Letters and digits only, so that
/// nothing in it is a wildcard of LIKE.
fn id_prefix(reference: &str) -> Option<String> {
    let ulid = reference.strip_prefix("run_").unwrap_or(reference);
    let fits = !ulid.is_empty() && ulid.bytes().all(|b| b.is_ascii_alphanumeric());
    // The underscore is a wildcard too, but at its place every id has one.
    fits.then(|| format!("run_{}", ulid.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_counts_back_from_the_newest() {
        assert_eq!(runs_back("last"), Some(0));
        assert_eq!(runs_back("last~3"), Some(3));
        assert_eq!(runs_back("last~-1"), None);
        assert_eq!(runs_back("last~x"), None);
        assert_eq!(runs_back("lasting"), None);
    }

    #[test]
    fn a_beginning_of_an_id_holds_no_wildcard() {
        assert_eq!(id_prefix("run_01j9").as_deref(), Some("run_01J9"));
        assert_eq!(id_prefix("01J9").as_deref(), Some("run_01J9"));
        assert_eq!(id_prefix("%"), None);
        assert_eq!(id_prefix("01_"), None);
        assert_eq!(id_prefix("run_"), None);
    }
}
