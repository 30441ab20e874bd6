//! `shoal watch`: looks on; whoever owns the run goes on owning it.

use super::watching::Watching;
use crate::args::Global;
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::live::Live;

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    run: String,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let live = Live::new(global.quiet);
    let exit_code = Watching::look_on(&mut place, run, live)?.until_over().await?;
    place.close().await;
    Ok(u8::try_from(exit_code).unwrap_or(3))
}
