//! Finds or installs the third-party programs, or reports what is missing.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The oldest Node that `undici` supports. Older `undici` versions are broken over HTTP/2.
const OLDEST_NODE: [u32; 3] = [20, 18, 1];

/// Returns the directory with the clients' scripts.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Returns curl, if it is installed and supports `feature`.
pub(crate) fn curl(feature: &str) -> Option<PathBuf> {
    let found = find(&["curl"]).ok_or_else(|| "curl is missing: apt-get install -y curl".to_owned());
    or_skip(&found.and_then(|curl| {
        let version = output(Command::new(&curl).arg("--version"))?;
        let able = version.split_whitespace().any(|word| word == feature);
        able.then_some(curl)
            .ok_or_else(|| format!("this curl is built without {feature}: apt-get install -y curl"))
    }))
}

/// Returns Python with the packages in `python/requirements.txt`.
pub(crate) fn python() -> Option<PathBuf> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    or_skip(PYTHON.get_or_init(|| {
        let python =
            find(&["python3"]).ok_or("python3 is missing: apt-get install -y python3 python3-venv")?;
        let requirements = scripts().join("python/requirements.txt");
        let folder = installed("python", &requirements, |folder| {
            output(Command::new(python).args(["-m", "venv"]).arg(folder))
                .map_err(|error| format!("{error}; apt-get install -y python3-venv"))?;
            let mut pip = Command::new(folder.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
            output(pip.arg(&requirements))
        })?;
        Ok(folder.join("bin/python"))
    }))
}

/// Returns Node, and the directory with the packages in `node/package-lock.json`.
pub(crate) fn node() -> Option<(PathBuf, PathBuf)> {
    static NODE: OnceLock<Result<(PathBuf, PathBuf), String>> = OnceLock::new();
    or_skip(NODE.get_or_init(|| {
        let missing = "node or npm is missing: apt-get install -y nodejs npm";
        let (node, npm) = find(&["node"]).zip(find(&["npm"])).ok_or(missing)?;
        let version = output(Command::new(&node).arg("--version"))?;
        if number(&version) < OLDEST_NODE {
            return Err(format!("node is {}, 20.18.1 or newer is required", version.trim()));
        }
        let lock = scripts().join("node/package-lock.json");
        let folder = installed("node", &lock, |folder| {
            fs::create_dir(folder).map_err(|error| error.to_string())?;
            for file in ["package.json", "package-lock.json"] {
                let from = scripts().join("node").join(file);
                fs::copy(from, folder.join(file)).map_err(|error| error.to_string())?;
            }
            let mut npm = Command::new(npm);
            output(npm.args(["ci", "--loglevel=error", "--no-audit", "--no-fund"]).current_dir(folder))
        })?;
        Ok((node, folder.join("node_modules")))
    }))
}

/// Returns Chromium, under any of its names.
pub(crate) fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
    or_skip(&find(&names).ok_or_else(|| "chromium is missing: apt-get install -y chromium".to_owned()))
}

fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let in_path = |name: &&str| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file());
    names.iter().find_map(in_path)
}

/// Parses the three numbers of `v1.2.3`; missing numbers are zero.
fn number(version: &str) -> [u32; 3] {
    let mut numbers = version.trim().trim_start_matches('v').split('.').map(|number| number.parse().ok());
    std::array::from_fn(|_| numbers.next().flatten().unwrap_or(0))
}

/// Returns the program. If it is missing, prints which test is skipped and why.
fn or_skip<T: Clone>(found: &Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found.clone()),
        Err(why) => {
            let thread = std::thread::current();
            // Not `eprintln!`: its output is captured and hidden while a test passes.
            let line = format!("skipped {}: {why}\n", thread.name().unwrap_or("a test"));
            std::io::stderr().write_all(line.as_bytes()).expect("write to stderr");
            None
        }
    }
}

/// Returns a directory filled for the requirements in the file `wanted`, now or by an earlier run.
fn installed(
    name: &str,
    wanted: &Path,
    fill: impl FnOnce(&Path) -> Result<String, String>,
) -> Result<PathBuf, String> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (folder, stamp) =
        (place.join(format!("clients-{name}")), place.join(format!("clients-{name}.stamp")));
    let text = |error: std::io::Error| error.to_string();
    fs::create_dir_all(place).map_err(text)?;
    // Tests in other processes wait here until the directory is complete.
    let lock = File::create(place.join(format!("clients-{name}.lock"))).map_err(text)?;
    lock.lock().map_err(text)?;
    let wanted = fs::read_to_string(wanted).map_err(text)?;
    if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == wanted) {
        return Ok(folder);
    }
    let _ = fs::remove_file(&stamp);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(text)?;
    }
    fill(&folder)?;
    fs::write(&stamp, wanted).map_err(text)?;
    Ok(folder)
}

/// Runs a program and returns its stdout. If it fails, returns the last two lines of its output.
fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = last[last.len().saturating_sub(2)..].join("; ");
    Err(format!("{program} failed ({}): {last}", output.status))
}
