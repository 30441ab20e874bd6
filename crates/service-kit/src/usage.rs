//! What this process has used: processor time, memory, descriptors, network.
//!
//! Beside the results of a run it tells whether the generator had room to spare. Reading never
//! fails: what a system does not tell is 0. Parsing is split from reading, so every format has a test.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::limits;

/// Since the process began; memory and descriptors are of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu_us: u64,
    pub memory_bytes: u64,
    pub descriptors: u64,
    /// Of all interfaces of this network namespace but loopback, whoever caused them.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Time in which somebody on this machine was ready and waited for a processor.
    pub pressure_us: u64,
    /// Time that a hypervisor gave this machine's processors to others, on average over them.
    pub stolen_us: u64,
    /// Time in which this container had used up its share of the processors.
    pub throttled_us: u64,
}

pub fn of_this_process() -> Usage {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (received_bytes, sent_bytes) = parse_interfaces(&read("/proc/self/net/dev"));
    Usage {
        cpu_us: cpu_us(),
        memory_bytes: parse_resident_pages(&read("/proc/self/statm")) * page_bytes(),
        descriptors: descriptors(),
        received_bytes,
        sent_bytes,
        pressure_us: parse_pressure(&read("/proc/pressure/cpu")),
        stolen_us: parse_stolen(&read("/proc/stat")),
        throttled_us: limits::cpu_stat().map_or(0, |stat| parse_throttled(&stat)),
    }
}

/// How long the calling thread was ready to run and waited for a processor, since it began.
pub fn waited_of_this_thread_us() -> u64 {
    fs::read_to_string("/proc/thread-self/schedstat").map_or(0, |stat| parse_waited(&stat))
}

fn cpu_us() -> u64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
        let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        u64::try_from(us).unwrap_or(0)
    })
}

fn page_bytes() -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    page.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4_096)
}

fn descriptors() -> u64 {
    const OPEN: &str = "/proc/self/fd";
    // Linux 6.2 and later say the number as the directory's size; listing is slow where many are open.
    match fs::metadata(OPEN).map_or(0, |directory| directory.len()) {
        0 => fs::read_dir(OPEN).map_or(0, |open| open.count() as u64),
        n => n,
    }
}

/// The second number of `statm`.
fn parse_resident_pages(statm: &str) -> u64 {
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

/// `some avg10=… total=µs`.
fn parse_pressure(pressure: &str) -> u64 {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "));
    let total = some.and_then(|line| line.split(' ').find_map(|word| word.strip_prefix("total=")));
    total.and_then(|us| us.parse().ok()).unwrap_or(0)
}

/// The eighth number of all processors together, in hundredths of a second.
fn parse_stolen(stat: &str) -> u64 {
    let n_processors = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    let all = stat.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let ticks: Option<u64> = all.and_then(|line| line.split_whitespace().nth(7)?.parse().ok());
    ticks.unwrap_or(0).saturating_mul(10_000) / n_processors.max(1) as u64
}

/// In µs by the newer kind of control groups, in ns by the older.
fn parse_throttled(stat: &str) -> u64 {
    let value = |name: &str| -> Option<u64> {
        stat.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    let older = || value("throttled_time ").map(|ns| ns / 1_000);
    value("throttled_usec ").or_else(older).unwrap_or(0)
}

/// The second number, in ns.
fn parse_waited(schedstat: &str) -> u64 {
    let ns = schedstat.split_whitespace().nth(1).and_then(|ns| ns.parse::<u64>().ok());
    ns.unwrap_or(0) / 1_000
}

/// Bytes received and sent; `name: received packets … sent …` after two lines of headers.
fn parse_interfaces(dev: &str) -> (u64, u64) {
    let bytes = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> =
            numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
        (name.trim() != "lo").then_some((*numbers.first()?, *numbers.get(8)?))
    };
    dev.lines().filter_map(bytes).fold((0, 0), |sum, (received, sent)| {
        (sum.0.saturating_add(received), sum.1.saturating_add(sent))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_has_used_something() {
        let usage = of_this_process();
        assert!(usage.memory_bytes > 100_000 && usage.descriptors >= 3, "{usage:?}");
    }

    #[test]
    fn the_files_of_proc_are_read() {
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 99 1 0 0 0 0 0 0 99 1 0\n\
                   \u{20}eth0: 500 4 0 0 0 0 0 0 70 2 0 0 0 0 0 0\n";
        assert_eq!(parse_interfaces(dev), (500, 70));
        assert_eq!(parse_resident_pages("3000 812 400 1 0 9 0\n"), 812);
        assert_eq!((parse_interfaces("x"), parse_resident_pages("")), ((0, 0), 0));
        let pressure =
            "some avg10=97.42 avg60=86.50 avg300=40.79 total=28605\nfull avg10=0.00 total=7\n";
        assert_eq!(parse_pressure(pressure), 28_605);
        let stat = "cpu  5 1 3 1 2 0 4 8 0 0\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 9\n";
        assert_eq!(parse_stolen(stat), 40_000);
        assert_eq!(parse_throttled("nr_periods 4\nthrottled_usec 77\n"), 77);
        assert_eq!(parse_throttled("nr_periods 4\nthrottled_time 77000\n"), 77);
        assert_eq!(parse_waited("9913 4000 17\n"), 4);
        let nothing =
            (parse_pressure(""), parse_stolen("cpu"), parse_throttled("x"), parse_waited(""));
        assert_eq!(nothing, (0, 0, 0, 0));
    }
}
