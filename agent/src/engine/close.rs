//! The end of a core: the gate closes, acks are awaited, devices say goodbye.
//!
//! The sweep at the gate handles each device's remaining slots by the usual rules, so a slot due in
//! the last millisecond is sent like any other; only what the target still delays becomes unsent.

use super::core::CoreLoop;
use super::stalls::PROBE_US;

/// Devices that disconnect between two beats: 10,000 a second, so that the end is no storm.
const GOODBYES_PER_BEAT: usize = 100;

/// Closes the gate for slots intended from `closed_at_us` on and ends all devices.
pub(super) async fn close(cores: &mut CoreLoop, closed_at_us: u64) {
    let core = cores.core.clone();
    core.stalls.notice(core.now_us());
    for device in &cores.devices {
        device.close(&core, core.now_us());
    }
    core.closing.set(true);
    core.control.gate_closed();

    let until = closed_at_us.saturating_add(core.plan.stop_timeout_us);
    while core.n_open.get() > 0 && core.now_us() < until && !cores.is_cut {
        core.sleep_until(core.now_us() + PROBE_US).await;
        cores.beat();
    }
    let mut left = cores.devices.len();
    while left > 0 {
        for _ in 0..GOODBYES_PER_BEAT.min(left) {
            left -= 1;
            cores.devices[left].finish(&core, core.now_us());
        }
        if left > 0 && !cores.is_cut {
            core.sleep_until(core.now_us() + PROBE_US).await;
        }
        cores.beat();
    }
    cores.tasks.abort_all();
}
