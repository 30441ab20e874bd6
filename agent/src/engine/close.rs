//! The end of a core: the gate closes, acks are awaited, devices say goodbye and brokers close.
//!
//! The sweep at the gate handles each device's remaining slots by the usual rules, so a slot due in
//! the last millisecond is sent like any other; only what the target still delays becomes unsent. A
//! core whose devices answer commands stays for those who still wait for such an answer.

use shoal_domain::plan::{Action, Group};

use super::Job;
use super::core::CoreLoop;
use super::stalls::PROBE_US;
use super::start::Seat;

/// Devices that disconnect between two beats: 10,000 a second, so that the end is no storm.
const GOODBYES_PER_BEAT: usize = 100;

/// How long brokers may take to close the last connections.
const FAREWELL_US: u64 = 1_000_000;

/// Who may want something of a core's devices after its gate has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    Nobody,
    /// Commands of this agent's devices, and of no others.
    ThisAgent,
    /// Also those of other agents, of which nothing is known.
    Others,
}

impl Audience {
    pub(super) fn of(job: &Job, seats: &[Seat]) -> Self {
        let groups = &job.plan.groups;
        let commands = |group: &Group| {
            group.sends().iter().any(|send| matches!(send.action, Action::Command(_)))
        };
        let answers = |group: &Group| group.listeners.iter().any(|one| one.reply.is_some());
        if !groups.iter().any(commands) || !seats.iter().any(|seat| answers(&groups[seat.group])) {
            return Self::Nobody;
        }
        let is_held = |(group, found): (usize, &Group)| {
            let blocks = job.shard.blocks.iter().filter(|block| block.group == group);
            !commands(found) || blocks.map(|block| block.len()).sum::<u64>() == found.devices
        };
        match groups.iter().enumerate().all(is_held) {
            true => Self::ThisAgent,
            false => Self::Others,
        }
    }
}

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
    let mut awaited = true;
    while core.now_us() < until && !cores.is_cut {
        let awaits = core.n_open.get() > 0;
        if std::mem::replace(&mut awaited, awaits) != awaits {
            core.control.awaits_answers(awaits);
        }
        let stays = match cores.audience {
            Audience::Nobody => awaits,
            Audience::ThisAgent => core.control.any_awaits_answers(),
            Audience::Others => true,
        };
        if !stays {
            break;
        }
        core.rest_until(core.now_us() + PROBE_US).await;
        cores.beat();
    }
    if awaited {
        core.control.awaits_answers(false);
    }
    let mut left = cores.devices.len();
    while left > 0 {
        for _ in 0..GOODBYES_PER_BEAT.min(left) {
            left -= 1;
            cores.devices[left].finish(&core, core.now_us());
        }
        if left > 0 && !cores.is_cut {
            core.rest_until(core.now_us() + PROBE_US).await;
        }
        cores.beat();
    }
    let until = core.now_us().saturating_add(FAREWELL_US);
    while core.n_open.get() > 0 && core.now_us() < until && !cores.is_cut {
        core.rest_until(core.now_us() + PROBE_US).await;
        cores.beat();
    }
    for device in &cores.devices {
        device.cut(&core, core.now_us());
    }
    cores.tasks.abort_all();
}
