//! What this machine and its container let one process do: descriptors, ports, cores, memory.
//!
//! An agent is planned by these numbers, so each is what really limits it (the container's share, not
//! the host's size). Reading never fails: where a file is missing or odd, the next source or a stated
//! default is taken. Parsing is split from reading, so every format has a test.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimit {
    pub before: u64,
    pub now: u64,
}

/// Raises the soft limit of open descriptors to the hard one. Keeps what there was if that is
/// refused; the caller sees it in the two numbers.
pub fn raise_descriptor_limit() -> DescriptorLimit {
    // A system that cannot say its limit is taken for the smallest that POSIX allows.
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return DescriptorLimit { before: 20, now: 20 };
    };
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    DescriptorLimit { before: soft, now: if raised { hard } else { soft } }
}

/// Linux' default range 32768..=60999.
const DEFAULT_EPHEMERAL_PORTS: u32 = 28_232;

/// How many local ports one address may use towards one destination.
pub fn ephemeral_ports() -> u32 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| parse_port_range(&text))
        .unwrap_or(DEFAULT_EPHEMERAL_PORTS)
}

fn parse_port_range(text: &str) -> Option<u32> {
    let mut ports = text.split_whitespace().map(str::parse::<u16>);
    let (low, high) = (ports.next()?.ok()?, ports.next()?.ok()?);
    (high >= low).then(|| u32::from(high - low) + 1)
}

/// Cores' worth of time this process may use: the container's quota or, without one, what the
/// scheduler offers.
pub fn cpu_quota_cores() -> f64 {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let available = f64::from(u32::try_from(available).unwrap_or(u32::MAX));
    let quota = read_v2("cpu.max").and_then(|text| parse_cpu_max(&text)).or_else(|| {
        let quota = read_v1("cpu", "cpu.cfs_quota_us")?;
        let period = read_v1("cpu", "cpu.cfs_period_us")?;
        parse_cpu_max(&format!("{} {}", quota.trim(), period.trim()))
    });
    quota.map_or(available, |cores| cores.min(available))
}

/// `<quota> <period>` in µs; `max` and -1 mean no quota.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let quota: u32 = words.next()?.parse().ok()?;
    let period: u32 = words.next().unwrap_or("100000").parse().ok()?;
    (quota > 0 && period > 0).then(|| f64::from(quota) / f64::from(period))
}

/// What this container's share of the processors did to it.
pub fn cpu_stat() -> Option<String> {
    read_v2("cpu.stat")
        .filter(|stat| stat.contains("throttled"))
        .or_else(|| read_v1("cpu", "cpu.stat"))
}

/// Bytes this process may use: the container's limit or the machine's memory, whichever is smaller.
/// 0 where neither can be read.
pub fn memory_limit_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_mem_total(&text));
    let container = read_v2("memory.max")
        .or_else(|| read_v1("memory", "memory.limit_in_bytes"))
        .and_then(|text| text.trim().parse::<u64>().ok());
    match (machine, container) {
        (Some(machine), Some(container)) => machine.min(container),
        (one, other) => one.or(other).unwrap_or(0),
    }
}

fn parse_mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// A control file of this process' own cgroup (v2), else of the root that a container sees.
fn read_v2(file: &str) -> Option<String> {
    let own = fs::read_to_string("/proc/self/cgroup").ok();
    let own = own.as_deref().and_then(|text| cgroup_path(text, ""));
    read_first("/sys/fs/cgroup", own, file)
}

fn read_v1(controller: &str, file: &str) -> Option<String> {
    let own = fs::read_to_string("/proc/self/cgroup").ok();
    let own = own.as_deref().and_then(|text| cgroup_path(text, controller));
    read_first(&format!("/sys/fs/cgroup/{controller}"), own, file)
}

fn read_first(root: &str, own: Option<&str>, file: &str) -> Option<String> {
    let own = own.and_then(|path| fs::read_to_string(format!("{root}{path}/{file}")).ok());
    own.or_else(|| fs::read_to_string(format!("{root}/{file}")).ok())
}

/// The path in a line `id:controllers:path` of /proc/self/cgroup; v2's controller list is empty.
fn cgroup_path<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let controllers = parts.nth(1)?;
        let path = parts.next()?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_is_never_lowered() {
        let limit = raise_descriptor_limit();
        assert!(limit.now >= limit.before);
        assert_eq!(raise_descriptor_limit().before, limit.now);
    }

    #[test]
    fn a_port_range_counts_both_ends() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(DEFAULT_EPHEMERAL_PORTS));
        assert_eq!(parse_port_range("9 1"), None);
        assert_eq!(parse_port_range(""), None);
    }

    #[test]
    fn a_cpu_quota_is_a_number_of_cores_or_nothing() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000"), None);
        assert_eq!(parse_cpu_max("-1 100000"), None);
        assert_eq!(parse_cpu_max("50000"), Some(0.5));
    }

    #[test]
    fn a_cgroup_is_found_in_both_versions() {
        assert_eq!(cgroup_path("0::/user.slice/x\n", ""), Some("/user.slice/x"));
        assert_eq!(cgroup_path("4:cpu,cpuacct:/a:b\n2:memory:/m\n", "cpu"), Some("/a:b"));
        assert_eq!(cgroup_path("garbage", "cpu"), None);
    }

    #[test]
    fn total_memory_is_read_in_kib() {
        assert_eq!(parse_mem_total("Bogus: 1\nMemTotal:  2048 kB\n"), Some(2 * 1024 * 1024));
    }

    #[test]
    fn this_machine_has_cores_ports_and_memory() {
        assert!(cpu_quota_cores() > 0.0);
        assert!(ephemeral_ports() > 0);
        assert!(memory_limit_bytes() > 0);
    }
}
