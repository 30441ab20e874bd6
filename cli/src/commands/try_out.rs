//! `shoal scenario try`: one device per group, one message each, every step shown.

use std::path::Path;

use crate::args::Global;
use crate::error::Error;
use crate::scenario::Scenario;

pub(super) async fn perform(
    _global: &Global,
    file: &Path,
    set: &[String],
    _secrets_dir: Option<&Path>,
) -> Result<u8, Error> {
    let _scenario = Scenario::load(file, set)?;
    Err(Error::NotInRelease {
        what: "`scenario try`".into(),
        help: "`shoal scenario plan --device 0` shows what a device would send".into(),
    })
}
