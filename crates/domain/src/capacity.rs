//! What devices cost and so how many fit: one table for agents, control plane and CLI.
//!
//! | limit | cost |
//! |---|---|
//! | descriptors | one per device, [`SPARE_DESCRIPTORS`] beside them |
//! | memory | [`BYTES_PER_DEVICE`] per device: ours, the kernel's socket buffers in use, its share of the rest |
//! | ports | one per device towards one destination |

/// Files that a process keeps open beside its devices' sockets: runtimes, uplink, store, logs.
pub const SPARE_DESCRIPTORS: u64 = 64;
/// Measured: 2–3 KiB of ours per idle connection; the rest is the kernel's and room for use.
pub const BYTES_PER_DEVICE: u64 = 32 * 1024;

/// What limits one agent process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub descriptors: u64,
    /// Towards one destination; `u64::MAX` where nothing is known of destinations.
    pub ports: u64,
    /// `u64::MAX`: not known.
    pub memory_bytes: u64,
}

/// Which limit binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    Descriptors,
    Ports,
    Memory,
}

impl Binding {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Ports => "ports",
            Self::Memory => "memory",
        }
    }
}

impl Limits {
    /// How many devices fit, and what keeps more from fitting.
    pub fn room(&self) -> (u64, Binding) {
        [
            (self.descriptors.saturating_sub(SPARE_DESCRIPTORS), Binding::Descriptors),
            (self.ports, Binding::Ports),
            (self.memory_bytes / BYTES_PER_DEVICE, Binding::Memory),
        ]
        .into_iter()
        .min_by_key(|(room, _)| *room)
        .expect("three limits")
    }
}

/// How many agents hold `devices` at `per_agent` each; at least one.
pub fn agents_for(devices: u64, per_agent: u64) -> u64 {
    devices.div_ceil(per_agent.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_agents_is_devices_over_what_each_holds_rounded_up() {
        assert_eq!(agents_for(6_000, 500), 12);
        assert_eq!(agents_for(6_001, 500), 13);
        assert_eq!(agents_for(10, 300), 1);
        assert_eq!(agents_for(0, 300), 1);
    }

    #[test]
    fn the_smallest_limit_binds() {
        let limits = Limits { descriptors: 4_096, ports: 28_232, memory_bytes: u64::MAX };
        assert_eq!(limits.room(), (4_032, Binding::Descriptors));
        let limits = Limits { memory_bytes: 1 << 20, ..limits };
        assert_eq!(limits.room(), (32, Binding::Memory));
        let limits = Limits { descriptors: 1 << 20, ports: 7, memory_bytes: u64::MAX };
        assert_eq!(limits.room(), (7, Binding::Ports));
    }
}
