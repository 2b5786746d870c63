//! HTTP/2 conformance: h2spec in strict mode against a plain and a TLS listener.

mod deviations;
mod report;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::interrupt;
use crate::process::{Cpu, Process, free_address};
use crate::proxies::answers;
use crate::table::Table;

use deviations::Deviation;
use report::{Case, Outcome};

/// Names of the listeners in the tables and in the list of deviations.
const LISTENERS: [&str; 2] = ["h2c", "tls"];

/// Time for a program to start answering.
const START: Duration = Duration::from_secs(10);

/// Time limit for one run of h2spec. A case waits at most 2 s for the peer.
const RUN: Duration = Duration::from_secs(400);

/// The parameters of a run.
#[derive(Debug)]
pub struct Plan {
    /// Path of the Homing binary.
    pub homing: PathBuf,
    /// Number of runs. Several runs find failures that depend on timing.
    pub rounds: u32,
}

/// The result of a run.
#[derive(Debug)]
pub struct Verdict {
    /// Counts and deviations, as Markdown.
    pub text: String,
    /// Mismatches with the list of deviations, one per entry.
    pub wrong: Vec<String>,
}

/// Builds h2spec, starts Homing and runs h2spec against it.
pub fn run(plan: &Plan) -> Result<Verdict> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let deviations = deviations::read(&folder.join("deviations"), &LISTENERS)?;
    let dir = tempfile::tempdir()?;
    let h2spec = build_h2spec(&folder)?;
    let mut setting = Setting::start(&plan.homing, dir)?;
    let mut seen: BTreeMap<(&str, String), Case> = BTreeMap::new();
    let mut table = Table::new(["listener", "cases", "passed", "closed by reset", "skipped", "failed"]);
    for (listener, address) in LISTENERS.into_iter().zip(setting.listeners) {
        for round in 0..plan.rounds {
            let cases = setting.h2spec(&h2spec, listener, address, round)?;
            for case in cases {
                // Keep the worst outcome of all runs.
                let id = (listener, case.id.clone());
                if seen.get(&id).is_none_or(|before| before.outcome < case.outcome) {
                    seen.insert(id, case);
                }
            }
        }
        table.row(tally(listener, seen.iter().filter(|((of, _), _)| *of == listener).map(|(_, case)| case)));
    }
    setting.homing.alive().context("Homing")?;
    Ok(judge(&seen, &deviations, &table))
}

fn tally<'c>(listener: &str, cases: impl Iterator<Item = &'c Case>) -> [String; 6] {
    let mut counts = [0_usize; 5];
    for case in cases {
        counts[0] += 1;
        counts[1 + case.outcome.kind()] += 1;
    }
    let [all, passed, reset, skipped, failed] = counts.map(|count| count.to_string());
    [listener.to_owned(), all, passed, reset, skipped, failed]
}

/// Compares the outcomes with the list of deviations.
fn judge(seen: &BTreeMap<(&str, String), Case>, deviations: &[Deviation], table: &Table) -> Verdict {
    let mut text = format!("{table}\n");
    let mut wrong = vec![];
    for ((listener, id), case) in seen {
        let known = deviations.iter().find(|known| known.listener == *listener && known.case == *id);
        match (&case.outcome, known) {
            (Outcome::Failed(how), Some(known)) => {
                let _ = writeln!(text, "- {listener} {id}, {}: {how}. {}", case.what, known.reason);
            }
            (Outcome::Failed(how), None) => wrong.push(format!("{listener} {id}, {}: {how}", case.what)),
            (Outcome::Skipped, None) => wrong.push(format!("{listener} {id}, {}: skipped", case.what)),
            (Outcome::Skipped, Some(known)) => {
                let _ = writeln!(text, "- {listener} {id}, {}: skipped. {}", case.what, known.reason);
            }
            (Outcome::Passed | Outcome::Reset, Some(_)) => {
                wrong.push(format!("{listener} {id} passes: remove it from the list of deviations"));
            }
            (Outcome::Passed | Outcome::Reset, None) => {}
        }
    }
    for known in deviations {
        if !seen.contains_key(&(known.listener.as_str(), known.case.clone())) {
            wrong.push(format!("{} {}: unknown h2spec case", known.listener, known.case));
        }
    }
    Verdict { text, wrong }
}

/// Builds h2spec in the version from `bench/conformance/go.mod` and returns the binary's path.
fn build_h2spec(folder: &Path) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let program = std::path::absolute(target)?.join("h2spec");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-o"]).arg(&program);
    go.arg("github.com/summerwind/h2spec/cmd/h2spec").current_dir(folder);
    if !go.status().context("run go; install it with `apt-get install -y golang-go`")?.success() {
        bail!("failed to build h2spec");
    }
    Ok(program)
}

/// Homing with both listeners, and the demo application as its backend.
struct Setting {
    listeners: [SocketAddr; 2],
    homing: Process,
    _application: Process,
    dir: TempDir,
}

impl Setting {
    fn start(binary: &Path, dir: TempDir) -> Result<Self> {
        let backend = free_address([127, 0, 0, 4])?;
        let listeners = [free_address([127, 0, 0, 2])?, free_address([127, 0, 0, 3])?];
        let pem = dir.path().join("server.pem");
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        fs::write(&pem, pair.cert.pem() + &pair.signing_key.serialize_pem())?;
        let config = dir.path().join("homing.toml");
        fs::write(&config, configuration(listeners, &pem, backend))?;

        let bind = backend.to_string();
        let mut application = Command::new(binary);
        application.args(["demo-app", "--id", "app", "--bind", &bind]);
        let application = start(&application, &dir.path().join("application"), backend)?;
        let mut homing = Command::new(binary);
        homing.args(["run", "--config"]).arg(&config);
        let homing = start(&homing, &dir.path().join("output"), listeners[0])?;
        Ok(Self { listeners, homing, _application: application, dir })
    }

    /// Runs all cases once against one listener.
    fn h2spec(
        &mut self,
        program: &Path,
        listener: &str,
        address: SocketAddr,
        round: u32,
    ) -> Result<Vec<Case>> {
        let file = |ending| self.dir.path().join(format!("{listener}-{round}.{ending}"));
        let (report, output) = (file("xml"), file("output"));
        let mut command = Command::new(program);
        // On this path the application reads the whole request before it answers. An
        // earlier answer would end the stream, and with it the case.
        command.args(["--strict", "--path", "/echo", "--host", &address.ip().to_string()]);
        command.args(["--port", &address.port().to_string(), "--junit-report"]).arg(&report);
        if listener == "tls" {
            command.args(["--tls", "--insecure"]);
        }
        let mut running = Process::spawn(&command, Cpu::Any, &output, Signal::TERM)?;
        // The exit status only says whether all cases passed; the report has the details.
        running.wait(RUN).with_context(|| format!("h2spec against {listener}"))?;
        let text = fs::read_to_string(&report)
            .with_context(|| format!("h2spec wrote no report:\n{}", running.printed()))?;
        report::read(&text).with_context(|| format!("invalid h2spec report:\n{text}"))
    }
}

fn configuration(listeners: [SocketAddr; 2], pem: &Path, backend: SocketAddr) -> String {
    let [plain, tls] = listeners;
    format!(
        "[server]\nworkers = 1\nadmin = \"off\"\n\n[[listener]]\nbind = \"{plain}\"\n\n\
         [[listener]]\nbind = \"{tls}\"\ntls = {{ certs = [\"{}\"] }}\n\n\
         [upstream.web]\naffinity = \"hash_ip\"\nbackends = [\"{backend}\"]\n",
        pem.display()
    )
}

/// Starts a program and waits for its first answer.
fn start(command: &Command, output: &Path, address: SocketAddr) -> Result<Process> {
    let mut process = Process::spawn(command, Cpu::Any, output, Signal::TERM)?;
    let answered = interrupt::until(START, || {
        process.alive()?;
        Ok(answers(address))
    })?;
    if !answered {
        bail!("{} did not answer within {START:?}:\n{}", command.get_program().display(), process.printed());
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(outcomes: &[(&'static str, Outcome)]) -> BTreeMap<(&'static str, String), Case> {
        let case = |(id, outcome): &(&'static str, Outcome)| {
            let case = Case { id: (*id).to_owned(), what: "Sends".into(), outcome: outcome.clone() };
            (("tls", case.id.clone()), case)
        };
        outcomes.iter().map(case).collect()
    }

    fn wrong(outcomes: &[(&'static str, Outcome)], list: &str) -> Vec<String> {
        let deviations = deviations::parse(list, &LISTENERS).unwrap();
        judge(&seen(outcomes), &deviations, &Table::new(["listener"])).wrong
    }

    #[test]
    fn failed_or_skipped_case_must_be_listed() {
        let outcomes =
            [("a/1/1", Outcome::Passed), ("a/1/2", Outcome::Skipped), ("a/1/3", Outcome::Failed("x".into()))];
        assert_eq!(wrong(&outcomes, "").len(), 2);
        assert_eq!(wrong(&outcomes, "tls a/1/2 Why.\ntls a/1/3 Why.\n"), Vec::<String>::new());
        assert_eq!(
            wrong(&outcomes, "h2c a/1/2 Why.\ntls a/1/3 Why.\n").len(),
            2,
            "a deviation of another listener should not count"
        );
    }

    #[test]
    fn listed_case_must_exist_and_fail() {
        assert_eq!(wrong(&[("a/1/1", Outcome::Passed)], "tls a/1/1 Why.\n").len(), 1);
        assert_eq!(wrong(&[("a/1/1", Outcome::Reset)], "tls a/1/1 Why.\n").len(), 1);
        assert_eq!(wrong(&[("a/1/1", Outcome::Passed)], "tls a/1/9 Why.\n").len(), 1);
    }
}
