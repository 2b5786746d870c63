//! The memory of the machine, or of the container that the process is in.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// Used if the system does not tell.
const UNKNOWN: u64 = 1 << 30;

/// Returns the memory that the process may use, in bytes: the least of the machine's, the limits of
/// its control groups (version 1 or 2), and its address space limit.
pub(super) fn memory() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = limit_files(&groups);
    let groups = groups.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    let address_space = getrlimit(Resource::As).current;
    groups.chain(machine).chain(address_space).min().unwrap_or(UNKNOWN)
}

/// Returns `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the files with the limits of the process's control groups and those above them, which may
/// not exist. `cgroup` is `/proc/self/cgroup`.
fn limit_files(cgroup: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container, the path may be the host's. The root is then the container's own group.
        let below = Path::new(path.trim_start_matches('/'));
        files.extend(below.ancestors().map(|group| Path::new(root).join(group).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_is_in_kibibytes() {
        assert_eq!(total("MemTotal:         524288 kB\nMemFree: 1 kB\n"), Some(512 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn groups_of_both_versions_and_their_parents_count() {
        let names = |text: &str| {
            let files = limit_files(text);
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            names("0::/system.slice/homing.service\n"),
            [
                "/sys/fs/cgroup/system.slice/homing.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(
            names("9:name=systemd:/x\n4:cpu,memory:/a\nbroken\n"),
            ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
    }

    #[test]
    fn some_memory_is_found() {
        assert!(memory() >= 1 << 20);
    }
}
