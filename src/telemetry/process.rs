//! Process statistics from `/proc`. Empty on systems other than Linux.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Statistics read from `/proc/self`. Values that cannot be read are `None`.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) cpu: Option<Duration>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    /// Time since the Unix epoch.
    pub(crate) started: Option<Duration>,
}

/// Clock ticks per second in `/proc` (`USER_HZ`). It is 100 on all supported architectures.
const TICKS: u64 = 100;

impl Process {
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let stat = stat.as_deref().and_then(Stat::parse);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let uptime = fs::read_to_string("/proc/uptime").ok();
        Self {
            cpu: stat.as_ref().map(|stat| ticks(stat.cpu_ticks)),
            // Do not count the descriptor of the directory that is being read.
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|entries| (entries.count() as u64).saturating_sub(1)),
            max_fds: max_fds(&limits),
            resident_bytes: status_value(&status, "VmRSS:").map(|kib| kib * 1024),
            threads: status_value(&status, "Threads:"),
            started: stat.zip(uptime).and_then(|(stat, uptime)| started(&stat, &uptime)),
        }
    }
}

struct Stat {
    cpu_ticks: u64,
    /// Ticks since boot.
    start_ticks: u64,
}

impl Stat {
    /// Parses `/proc/self/stat` (`proc_pid_stat(5)`). The second field is the program name in
    /// parentheses, which may itself contain spaces and parentheses. The fields needed come after it.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
    }
}

fn ticks(n: u64) -> Duration {
    Duration::from_millis(n * (1000 / TICKS))
}

fn started(stat: &Stat, uptime: &str) -> Option<Duration> {
    let up = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    let up = Duration::try_from_secs_f64(up).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.checked_sub(up)? + ticks(stat.start_ticks))
}

fn status_value(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 3 0 12345 1000 200";
        let stat = Stat::parse(text).expect("parses");
        assert_eq!(ticks(stat.cpu_ticks), Duration::from_secs(3));
        assert_eq!(stat.start_ticks, 12345);
    }

    #[test]
    fn truncated_files_are_ignored() {
        assert!(Stat::parse("7 (a) S 1 7").is_none());
        assert!(Stat::parse("").is_none());
        assert_eq!(status_value("VmRSS:\n", "VmRSS:"), None);
        assert_eq!(max_fds("Max open files            unlimited            unlimited"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn statistics_of_this_process_are_plausible() {
        let process = Process::read();
        assert!(process.open_fds.is_some_and(|n| n > 0));
        assert!(process.resident_bytes.is_some_and(|n| n > 100_000));
        assert!(process.threads.is_some_and(|n| n >= 1));
        assert!(process.cpu.is_some());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let age = now.checked_sub(process.started.expect("started")).expect("started in the past");
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}
