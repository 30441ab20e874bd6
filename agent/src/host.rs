//! What this agent runs on, so that results of different machines are not taken for comparable.
//!
//! Read once at start, for people; what cannot be read is left out.

use shoal_proto::v1;

/// More of a name than anybody reads.
const MAX_TEXT: usize = 120;

pub(crate) fn read() -> v1::Host {
    let uname = nix::sys::utsname::uname().ok();
    let text = |part: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        uname.as_ref().map(|uname| bounded(&part(uname).to_string_lossy())).unwrap_or_default()
    };
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = file("/proc/cpuinfo");
    v1::Host {
        name: text(|uname| uname.nodename()),
        system: system_of(&file("/etc/os-release")),
        kernel: text(|uname| uname.release()),
        processor: processor_of(&cpus),
        processors: processors_of(&cpus),
        memory_bytes: memory_of(&file("/proc/meminfo")),
    }
}

/// Of /etc/os-release.
fn system_of(release: &str) -> String {
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    bounded(pretty.unwrap_or_default().trim_matches(['"', '\'']))
}

/// Of /proc/cpuinfo; other architectures than x86 do not say it.
fn processor_of(cpus: &str) -> String {
    let value = |line: &str| Some(line.split_once(':')?.1.trim().to_owned());
    let model = cpus.lines().find(|line| line.starts_with("model name")).and_then(value);
    bounded(&model.unwrap_or_default())
}

fn processors_of(cpus: &str) -> u32 {
    match cpus.lines().filter(|line| line.starts_with("processor")).count() {
        0 => std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        n => n as u32,
    }
}

/// Of /proc/meminfo, which counts in KiB.
fn memory_of(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or_default().saturating_mul(1024)
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_read() {
        assert_eq!(
            system_of("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
        let cpus =
            "processor\t: 0\nmodel name\t: AMD EPYC\nprocessor\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!((processor_of(cpus).as_str(), processors_of(cpus)), ("AMD EPYC", 2));
        assert_eq!(memory_of("MemTotal:       16384 kB\nMemFree: 1 kB\n"), 16 << 20);
    }

    #[test]
    fn what_nobody_says_is_left_out() {
        assert_eq!(
            (system_of(""), processor_of("x"), memory_of("MemTotal: much")),
            Default::default()
        );
        assert_eq!(bounded(&"a\u{1b}".repeat(1_000)).len(), MAX_TEXT);
    }
}
