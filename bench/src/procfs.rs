//! CPU time and memory of a process and its descendants, from /proc.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time and resident memory of a process, with all its threads and running
/// descendants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time in user mode.
    pub user: Duration,
    /// Time in the kernel.
    pub system: Duration,
    /// Resident set, in bytes.
    pub resident: u64,
}

/// The fields of `/proc/PID/stat` that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    zombie: bool,
    user_ticks: u64,
    system_ticks: u64,
    resident_pages: u64,
    started_ticks: u64,
}

/// A process, identified by id and start time, because ids are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// The process id.
    pub pid: u32,
    started_ticks: u64,
}

impl Instance {
    /// Returns true if the process is still running (zombies are not).
    pub fn lives(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started_ticks == self.started_ticks && !stat.zombie)
    }
}

/// Returns the usage of `pid` and its descendants so far.
pub fn usage(pid: u32) -> Result<Usage> {
    let stats = all_stats()?;
    let tree = tree_of(pid, &stats);
    let ticks = rustix::param::clock_ticks_per_second();
    let page = u64::try_from(rustix::param::page_size())?;
    let mut usage = Usage::default();
    for stat in tree.iter().filter_map(|pid| stats.get(pid)) {
        usage.user += time(stat.user_ticks, ticks);
        usage.system += time(stat.system_ticks, ticks);
        usage.resident += stat.resident_pages * page;
    }
    Ok(usage)
}

/// Returns `pid` and its descendants that are running.
pub fn tree(pid: u32) -> Result<Vec<Instance>> {
    let stats = all_stats()?;
    let instance = |pid| Instance { pid, started_ticks: stats[&pid].started_ticks };
    Ok(tree_of(pid, &stats).into_iter().map(instance).collect())
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn all_stats() -> Result<HashMap<u32, Stat>> {
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may exit between the two reads; skip it then.
        if let Some(stat) = stat(pid) {
            stats.insert(pid, stat);
        }
    }
    Ok(stats)
}

fn tree_of(root: u32, stats: &HashMap<u32, Stat>) -> Vec<u32> {
    let mut tree = vec![];
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        if !stats.contains_key(&pid) {
            continue;
        }
        tree.push(pid);
        next.extend(stats.iter().filter(|(_, stat)| stat.parent == pid).map(|(child, _)| *child));
    }
    tree
}

/// Parses a line of `/proc/PID/stat`; see `proc_pid_stat(5)`. The command name may contain
/// spaces and parentheses, so fields are counted from the last parenthesis.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        zombie: *fields.first()? == "Z",
        user_ticks: fields.get(11)?.parse().ok()?,
        system_ticks: fields.get(12)?.parse().ok()?,
        resident_pages: fields.get(21)?.parse().ok()?,
        started_ticks: fields.get(19)?.parse().ok()?,
    })
}

fn time(ticks: u64, per_second: u64) -> Duration {
    Duration::from_micros(ticks * 1_000_000 / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "4711 (a (b) c) S 42 4711 4711 0 -1 4194560 100 0 0 0 31 17 0 0 20 0 1 0 \
                        123456 10000000 250 18446744073709551615 1 1 0 0";

    #[test]
    fn stat_skips_parentheses_in_the_command_name() {
        let stat = parse(LINE).unwrap();
        assert_eq!((stat.parent, stat.zombie), (42, false));
        assert_eq!((stat.user_ticks, stat.system_ticks), (31, 17));
        assert_eq!((stat.resident_pages, stat.started_ticks), (250, 123_456));
        assert_eq!(parse("4711 (cut off) S 42"), None);
    }

    #[test]
    fn tree_has_descendants_only() {
        let stat = |parent| Stat { parent, ..parse(LINE).unwrap() };
        let stats =
            HashMap::from([(1, stat(0)), (10, stat(1)), (11, stat(10)), (12, stat(11)), (20, stat(1))]);
        let mut tree = tree_of(10, &stats);
        tree.sort_unstable();
        assert_eq!(tree, [10, 11, 12]);
        assert!(tree_of(99, &stats).is_empty());
    }

    #[test]
    fn own_cpu_time_grows() {
        let before = usage(std::process::id()).unwrap();
        let mut sum = 0u64;
        while usage(std::process::id()).unwrap().user + usage(std::process::id()).unwrap().system
            <= before.user + before.system
        {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(before.resident > 100_000);
    }
}
