//! Rows of `runs` as values: the words become the domain's, or the row is refused by name.

use shoal_domain::ids::RunId;
use shoal_domain::labels::Labels;
use shoal_domain::run::{Phase, Validity, Verdict};
use sqlx::FromRow;

use super::StoreError;

/// A run with everything that is kept about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    pub run_id: RunId,
    pub name: String,
    pub scenario_name: String,
    pub scenario_text: String,
    pub scenario_sha256: String,
    pub vars_json: String,
    pub seed: u64,
    pub planned_devices: i64,
    pub created_at_us: i64,
    pub note: String,
    pub started_by: String,
    pub revision: String,
    pub owner: String,
    pub owner_epoch: i64,
    pub owner_seen_us: i64,
    pub owner_token_hash: Option<String>,
    pub version: i64,
    pub phase: Phase,
    pub state_json: String,
    pub validity: Option<Validity>,
    pub verdict: Option<Verdict>,
    pub exit_code: Option<i64>,
    pub cause: Option<String>,
    pub t0_us: Option<i64>,
    pub ended_at_us: Option<i64>,
    /// How long its windows are: 1 until they became coarser.
    pub window_s: i64,
}

/// What a list of runs shows; without the texts, which may be a mebibyte each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunListing {
    pub run_id: RunId,
    pub name: String,
    pub scenario_name: String,
    pub planned_devices: i64,
    pub created_at_us: i64,
    pub labels: Labels,
    pub started_by: String,
    pub revision: String,
    pub phase: Phase,
    pub validity: Option<Validity>,
    pub verdict: Option<Verdict>,
    pub exit_code: Option<i64>,
    pub cause: Option<String>,
    pub t0_us: Option<i64>,
    pub ended_at_us: Option<i64>,
}

#[derive(FromRow)]
pub(super) struct RawRun {
    run_id: String,
    name: String,
    scenario_name: String,
    scenario_text: String,
    scenario_sha256: String,
    vars_json: String,
    seed: String,
    planned_devices: i64,
    created_at_us: i64,
    note: String,
    started_by: String,
    revision: String,
    owner: String,
    owner_epoch: i64,
    owner_seen_us: i64,
    owner_token_hash: Option<String>,
    version: i64,
    phase: String,
    state_json: String,
    validity: Option<String>,
    verdict: Option<String>,
    exit_code: Option<i64>,
    cause: Option<String>,
    t0_us: Option<i64>,
    ended_at_us: Option<i64>,
    window_s: i64,
}

impl TryFrom<RawRun> for RunRow {
    type Error = StoreError;

    fn try_from(raw: RawRun) -> Result<Self, StoreError> {
        let words = Words::of(&raw.run_id, &raw.phase, &raw.validity, &raw.verdict)?;
        let seed = raw.seed.parse().map_err(|_| {
            impossible("seed", &raw.run_id, format!("`{}` is no 64-bit number", raw.seed))
        })?;
        Ok(Self {
            run_id: words.run_id,
            name: raw.name,
            scenario_name: raw.scenario_name,
            scenario_text: raw.scenario_text,
            scenario_sha256: raw.scenario_sha256,
            vars_json: raw.vars_json,
            seed,
            planned_devices: raw.planned_devices,
            created_at_us: raw.created_at_us,
            note: raw.note,
            started_by: raw.started_by,
            revision: raw.revision,
            owner: raw.owner,
            owner_epoch: raw.owner_epoch,
            owner_seen_us: raw.owner_seen_us,
            owner_token_hash: raw.owner_token_hash,
            version: raw.version,
            phase: words.phase,
            state_json: raw.state_json,
            validity: words.validity,
            verdict: words.verdict,
            exit_code: raw.exit_code,
            cause: raw.cause,
            t0_us: raw.t0_us,
            ended_at_us: raw.ended_at_us,
            window_s: raw.window_s,
        })
    }
}

#[derive(FromRow)]
pub(super) struct RawListing {
    run_id: String,
    name: String,
    scenario_name: String,
    planned_devices: i64,
    created_at_us: i64,
    started_by: String,
    revision: String,
    phase: String,
    validity: Option<String>,
    verdict: Option<String>,
    exit_code: Option<i64>,
    cause: Option<String>,
    t0_us: Option<i64>,
    ended_at_us: Option<i64>,
}

impl TryFrom<RawListing> for RunListing {
    type Error = StoreError;

    fn try_from(raw: RawListing) -> Result<Self, StoreError> {
        let words = Words::of(&raw.run_id, &raw.phase, &raw.validity, &raw.verdict)?;
        Ok(Self {
            run_id: words.run_id,
            name: raw.name,
            scenario_name: raw.scenario_name,
            planned_devices: raw.planned_devices,
            created_at_us: raw.created_at_us,
            labels: Labels::default(),
            started_by: raw.started_by,
            revision: raw.revision,
            phase: words.phase,
            validity: words.validity,
            verdict: words.verdict,
            exit_code: raw.exit_code,
            cause: raw.cause,
            t0_us: raw.t0_us,
            ended_at_us: raw.ended_at_us,
        })
    }
}

/// The columns that must be words of the domain.
struct Words {
    run_id: RunId,
    phase: Phase,
    validity: Option<Validity>,
    verdict: Option<Verdict>,
}

impl Words {
    fn of(
        id: &str,
        phase: &str,
        validity: &Option<String>,
        verdict: &Option<String>,
    ) -> Result<Self, StoreError> {
        let unknown = |column, word: &str| impossible(column, id, format!("unknown word `{word}`"));
        let validities = [Validity::Valid, Validity::Degraded, Validity::Invalid];
        let verdicts = [Verdict::Passed, Verdict::Failed];
        Ok(Self {
            run_id: parse_run_id("runs", id)?,
            phase: Phase::from_word(phase).ok_or_else(|| unknown("phase", phase))?,
            validity: match validity {
                None => None,
                Some(word) => Some(
                    validities
                        .into_iter()
                        .find(|known| known.word() == word)
                        .ok_or_else(|| unknown("validity", word))?,
                ),
            },
            verdict: match verdict {
                None => None,
                Some(word) => Some(
                    verdicts
                        .into_iter()
                        .find(|known| known.word() == word)
                        .ok_or_else(|| unknown("verdict", word))?,
                ),
            },
        })
    }
}

pub(super) fn parse_run_id(table: &'static str, id: &str) -> Result<RunId, StoreError> {
    id.parse().map_err(|error: shoal_domain::ids::NotARunId| StoreError::Inconsistent {
        table,
        column: "run_id",
        id: id.to_owned(),
        why: error.to_string(),
    })
}

fn impossible(column: &'static str, id: &str, why: String) -> StoreError {
    StoreError::Inconsistent { table: "runs", column, id: id.to_owned(), why }
}
