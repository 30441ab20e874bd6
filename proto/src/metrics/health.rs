//! How the generator fared, on the wire.

use shoal_domain::delta::Health;
use shoal_domain::strain::{MAX_SPELLS, Spell, Strain, add_spell};

use crate::{BadField, v1};

pub(super) fn to_wire(health: &Health) -> v1::Health {
    v1::Health {
        stall_max_us: health.stall_max_us,
        stalled_us: health.stalled_us,
        descriptor_errors: health.descriptor_errors,
        port_errors: health.port_errors,
        cpu_us: health.cpu_us,
        memory_bytes: health.memory_bytes,
        descriptors: health.descriptors,
        received_bytes: health.received_bytes,
        sent_bytes: health.sent_bytes,
        wall_us: health.wall_us,
        waited_us: health.waited_us,
        pressure_us: health.pressure_us,
        stolen_us: health.stolen_us,
        throttled_us: health.throttled_us,
        start_lag_us: health.start_lag_us,
    }
}

pub(super) fn from_wire(wire: &v1::Health) -> Health {
    Health {
        stall_max_us: wire.stall_max_us,
        stalled_us: wire.stalled_us,
        descriptor_errors: wire.descriptor_errors,
        port_errors: wire.port_errors,
        cpu_us: wire.cpu_us,
        memory_bytes: wire.memory_bytes,
        descriptors: wire.descriptors,
        received_bytes: wire.received_bytes,
        sent_bytes: wire.sent_bytes,
        wall_us: wire.wall_us,
        waited_us: wire.waited_us,
        pressure_us: wire.pressure_us,
        stolen_us: wire.stolen_us,
        throttled_us: wire.throttled_us,
        start_lag_us: wire.start_lag_us,
    }
}

pub(super) fn spell(spell: &Spell) -> v1::Spell {
    let strain = match spell.strain {
        Strain::Missed => v1::Strain::Missed,
        Strain::Late => v1::Strain::Late,
        Strain::Exhausted => v1::Strain::Exhausted,
        Strain::Waited => v1::Strain::Waited,
        Strain::Pressure => v1::Strain::Pressure,
        Strain::Stolen => v1::Strain::Stolen,
        Strain::Throttled => v1::Strain::Throttled,
    };
    v1::Spell {
        strain: strain.into(),
        first_window: spell.first_window,
        last_window: spell.last_window,
        windows: spell.windows,
        amount: spell.amount,
    }
}

/// Those of a later release's kinds say nothing to this one.
pub(super) fn spells_from(wire: &[v1::Spell]) -> Result<Vec<Spell>, BadField> {
    if wire.len() > 2 * MAX_SPELLS * Strain::ALL.len() {
        return Err(BadField::new("spells", "more than an agent may keep"));
    }
    let mut spells = Vec::new();
    for told in wire {
        let strain = match told.strain() {
            v1::Strain::Unspecified => continue,
            v1::Strain::Missed => Strain::Missed,
            v1::Strain::Late => Strain::Late,
            v1::Strain::Exhausted => Strain::Exhausted,
            v1::Strain::Waited => Strain::Waited,
            v1::Strain::Pressure => Strain::Pressure,
            v1::Strain::Stolen => Strain::Stolen,
            v1::Strain::Throttled => Strain::Throttled,
        };
        let v1::Spell { first_window, last_window, windows, amount, .. } = *told;
        // A window may have been judged in parts, so it may count more than once.
        if last_window < first_window {
            return Err(BadField::new("spells", "one ends before it begins"));
        }
        add_spell(&mut spells, Spell { strain, first_window, last_window, windows, amount });
    }
    Ok(spells)
}
