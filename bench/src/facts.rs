//! Facts about the machine that a reader of a result needs; nothing that identifies it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::first_line;

/// Describes the machine as lines of a Markdown list.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown CPU".into());
    let kilobytes = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let gigabytes = kilobytes.trim_end_matches(" kB").parse().map_or(0, |kb: u64| (kb + (1 << 19)) >> 20);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Only the version numbers; the rest may identify a distributor's or an owner's build.
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let kernel = kernel.split('-').next().unwrap_or_default().to_owned();
    let virtual_machine =
        value(&read("/proc/cpuinfo"), "flags").is_some_and(|flags| flags.contains(" hypervisor"));
    let kind = if virtual_machine { "virtual machine" } else { "bare metal" };
    format!("- {cpu}, {cores} cores, {gigabytes} GiB, {kind}\n- Linux {kernel}, {}\n", std::env::consts::ARCH)
}

/// Returns the load average over the last minute.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Returns the value of the first line `name : value` in a /proc file.
fn value(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Writes a result to `bench/results/DATE-what.md` and returns the path.
pub fn save(what: &str, text: &str) -> Result<PathBuf> {
    let date = first_line(Command::new("date").args(["-u", "+%F"]))?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{date}-{what}.md"));
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_value_wins_and_is_trimmed() {
        let text = "processor\t: 0\nmodel name\t: A CPU \nmodel name\t: Another\n";
        assert_eq!(value(text, "model name").as_deref(), Some("A CPU"));
        assert_eq!(value(text, "flags"), None);
    }
}
