//! Fetching the files of an assignment from the control plane, on a connection of their own: they
//! are bulk, and a beat must not wait behind them.

use std::time::Duration;

use shoal_domain::files::Files;
use shoal_proto::files::Assembler;
use shoal_proto::v1;
use shoal_service_kit::Backoff;
use tonic::Code;

use super::load::Refusal;
use crate::connection::{Dialer, answer, sentence};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Tries until it has them or hears that there are none; the caller sets the limit.
pub(super) async fn fetch(dialer: &Dialer, wanted: &v1::Assignment) -> Result<Files, Refusal> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match once(dialer, wanted).await {
            Ok(files) => return Ok(files),
            Err(Failure::Final(why)) => {
                return Err(Refusal::new("SH0306", format!("the run's files did not come: {why}")));
            }
            Err(Failure::Passing(why)) => {
                tracing::warn!(assignment = wanted.assignment_id, why, "files, trying again");
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

enum Failure {
    Passing(String),
    Final(String),
}

async fn once(dialer: &Dialer, wanted: &v1::Assignment) -> Result<Files, Failure> {
    let failed = |status: tonic::Status| match status.code() {
        Code::NotFound | Code::Unimplemented | Code::OutOfRange => Failure::Final(answer(&status)),
        _ => Failure::Passing(answer(&status)),
    };
    let damaged = |error: shoal_proto::BadField| Failure::Final(error.to_string());
    let dialed = dialer.dial().await;
    let mut client = dialed.map_err(|error| Failure::Passing(sentence(&error)))?;
    let request =
        v1::FetchFilesRequest { assignment_id: wanted.assignment_id.clone(), epoch: wanted.epoch };
    let mut chunks = client.fetch_files(request).await.map_err(failed)?.into_inner();
    let mut assembler = Assembler::default();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        assembler.add(chunk).map_err(damaged)?;
    }
    assembler.finish().map_err(damaged)
}
