//! The request logs that come beside deltas: checked, and bounded over a whole run.

use std::collections::HashMap;

use shoal_domain::ids::RunId;
use shoal_domain::requests::{MAX_RUN_BYTES, RequestLog};
use shoal_proto::v1;

use crate::store::{IncomingRequests, Store};

/// Runs of which it is remembered how much they have logged.
const RUNS: usize = 1_024;

/// Bytes of the request logs of runs that log.
#[derive(Default)]
pub(super) struct Logged(HashMap<RunId, u64>);

impl Logged {
    /// A run that has logged as much as it may keeps only the count of what follows.
    pub(super) async fn bound(
        &mut self,
        store: &Store,
        run: RunId,
        requests: &mut IncomingRequests,
    ) {
        if requests.is_empty() {
            return;
        }
        if self.0.len() > RUNS {
            self.0.clear();
        }
        let logged = match self.0.get(&run) {
            Some(logged) => *logged,
            // While the store does not answer, the run is taken for one that has logged nothing.
            None => match store.request_totals(run).await {
                Ok(totals) => totals.n_bytes.max(0) as u64,
                Err(_) => 0,
            },
        };
        let now = logged + requests.body.len() as u64;
        let is_full = now > MAX_RUN_BYTES;
        if is_full {
            requests.dropped = requests.dropped.saturating_add(requests.n_rows);
            (requests.n_rows, requests.body) = (0, Vec::new());
        }
        self.0.insert(run, if is_full { logged } else { now });
    }
}

/// Takes the log out of an upload.
pub(super) fn requests_of(wire: &mut v1::UploadDelta) -> Result<IncomingRequests, String> {
    let dropped = i64::try_from(wire.requests_dropped)
        .map_err(|_| "a number of the request log does not fit in 63 bits")?;
    let log = RequestLog::from_bytes(std::mem::take(&mut wire.requests), wire.requests_dropped)
        .map_err(|error| error.to_string())?;
    Ok(IncomingRequests { n_rows: log.rows() as i64, dropped, body: log.into_bytes() })
}
