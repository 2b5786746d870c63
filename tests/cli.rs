//! Tests of the `homing` program: commands, signals and exit statuses.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Time allowed for an expected event.
const PATIENCE: Duration = Duration::from_secs(20);

fn homing(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homing"));
    command.args(arguments).env_remove("HOMING_LOG");
    command
}

fn output(arguments: &[&str]) -> Output {
    homing(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running command. Dropping it kills the process.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts the command and reads the lines of stdout and stderr.
    fn start(arguments: &[&str]) -> Self {
        Self::of(homing(arguments))
    }

    /// Starts the command with a limit of open files.
    fn start_with_files(files: u32, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_homing")]).args(arguments).env_remove("HOMING_LOG");
        Self::of(shell)
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines }
    }

    /// Waits for a line that contains `what`.
    fn line_with(&self, what: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(what) => return line,
                Ok(_) => {}
                Err(error) => panic!("no line contains {what:?}: {error}"),
            }
        }
    }

    /// Waits for the address that the proxy listens on.
    fn listening(&self) -> SocketAddr {
        let line = self.line_with("listening");
        let address = line.split("address=").nth(1).unwrap_or_else(|| panic!("{line}"));
        address.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the process to exit. Returns its exit status.
    fn ended(&mut self) -> Option<i32> {
        // The streams close when the process exits.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a backend that answers every request with its name.
fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).count() > 0 {
                    let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                    if (&stream).write_all(reply.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Sends a request of a session on a new connection. Returns the whole response.
fn get(address: SocketAddr, session: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("GET /?a=b HTTP/1.1\r\nHost: t\r\nCookie: SID={session}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new(content: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        fs::write(&path, content).unwrap();
        Self { _folder: folder, path }
    }

    fn as_str(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

fn configuration(backends: &[(&str, SocketAddr)], more: &str) -> String {
    let mut file = String::from(
        "[server]\nworkers = 1\nadmin = \"off\"\nshutdown_grace = \"10s\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [upstream.web]\nhealth_check = false\n",
    );
    for (id, address) in backends {
        let _ = writeln!(file, "[[upstream.web.backend]]\nid = \"{id}\"\naddress = \"{address}\"");
    }
    file + "[upstream.web.affinity]\nkey = [\"cookie:SID\"]\nreport = true\n" + more
}

#[test]
fn invalid_file_reports_all_errors() {
    let file = File::new("[[listener]]\nbnd = \"127.0.0.1:0\"\n[upstream.web]\nbackends = [\"nonsense\"]\n");
    for command in ["check", "run", "demo"] {
        let output = output(&[command, "--config", file.as_str()]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success(), "{command}: {said}");
        assert!(said.contains("bnd") && said.contains("nonsense"), "{command}: {said}");
    }
}

#[test]
fn missing_file_is_an_error() {
    for command in ["check", "run", "demo", "explain"] {
        let output = output(&[command, "--config", "no/such.toml"]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success() && said.contains("no/such.toml"), "{command}: {said}");
    }
}

#[test]
fn reference_file_is_valid() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml");
    let output = output(&["check", "--config", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("digest"), "{}", text(&output.stdout));
}

/// A pipe that nobody reads.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn closed_pipe_ends_the_output_quietly() {
    let file = File::new(&configuration(&[("a", backend("a"))], ""));
    let invalid = File::new("x = 1\n");
    for (arguments, status) in [
        (vec!["check", "--config", file.as_str()], 0),
        (vec!["check", "--config", invalid.as_str()], 2),
        (vec!["explain", "--config", file.as_str()], 0),
        (vec!["--help"], 0),
        (vec!["--version"], 0),
    ] {
        let output = homing(&arguments).stdout(closed_pipe()).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(status), String::new()),
            "{arguments:?}"
        );
    }
    // Standard error too: errors, warnings and the log.
    for (arguments, status) in [
        (vec!["run", "--config", invalid.as_str()], 2),
        (vec!["run", "--config", "no/such.toml"], 2),
        (vec!["x"], 2),
    ] {
        let output = homing(&arguments).stderr(closed_pipe()).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
    }
}

#[test]
fn full_disk_is_an_error() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let file = File::new(&configuration(&[("a", backend("a"))], ""));
    let output = homing(&["check", "--config", file.as_str()]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: "), "{}", text(&output.stderr));
}

#[test]
fn proxy_runs_on_when_nobody_reads_its_log() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let text = configuration(&[("a", backend("a"))], "[access_log]\nformat = \"json\"\n");
    let file = File::new(&text.replace("127.0.0.1:0", &address.to_string()));
    let mut command = homing(&["--log", "debug", "run", "--config", file.as_str()]);
    let mut child = command.stdout(closed_pipe()).stderr(closed_pipe()).spawn().unwrap();
    let began = std::time::Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < PATIENCE, "the proxy does not listen");
        std::thread::yield_now();
    }
    for _ in 0..3 {
        assert!(get(address, "1").ends_with("\r\n\r\na"));
        kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn start_warnings_and_errors_are_log_lines_with_log_json() {
    let warned = configuration(&[("a", backend("a"))], "").replace("\"off\"", "\"0.0.0.0:0\"");
    let file = File::new(&warned);
    let mut process = Process::start(&["--log-json", "run", "--config", file.as_str()]);
    let line = process.line_with("the admin address has no authentication");
    assert!(
        line.starts_with('{') && line.contains("\"level\":\"WARN\"") && line.contains("\"line\":3"),
        "{line}"
    );
    process.signal(Signal::TERM);
    assert_eq!(process.ended(), Some(0));
    for content in [
        &*format!("{warned}x = 1\n"),
        "",
        &configuration(&[("a", backend("a"))], "").replace("127.0.0.1:0", "192.0.2.1:80"),
    ] {
        let file = File::new(content);
        let output = output(&["--log-json", "run", "--config", file.as_str()]);
        let said = text(&output.stderr);
        assert!(!said.is_empty() && said.lines().all(|line| line.starts_with('{')), "{said}");
        assert!(said.contains("\"level\":\"ERROR\""), "{said}");
    }
}

#[test]
fn exit_statuses_are_the_same_for_check_and_run() {
    let valid = configuration(&[("a", backend("a"))], "");
    let missing_log = "[access_log]\nformat = \"json\"\noutput = \"no/such/access.log\"\n";
    for (content, status, words) in [
        (Some("x = 1\n".to_owned()), 2, "unknown key"),
        (None, 2, "no/such.toml"),
        (
            Some(valid.replace("127.0.0.1:0", "192.0.2.1:8080")),
            1,
            "192.0.2.1:8080: this machine has no such address",
        ),
        (
            Some(valid.replace("\"off\"", "\"192.0.2.1:9900\"")),
            1,
            "192.0.2.1:9900: this machine has no such address",
        ),
        (Some(valid.clone() + missing_log), 1, "such/access.log: its directory does not exist"),
    ] {
        let file = content.as_deref().map(File::new);
        let path = file.as_ref().map_or("no/such.toml", File::as_str);
        for command in ["check", "run"] {
            let output = output(&[command, "--config", path]);
            let said = text(&output.stdout) + &text(&output.stderr);
            assert_eq!(output.status.code(), Some(status), "{command}: {said}");
            assert!(said.contains(words), "{command}: {said}");
        }
    }
}

#[test]
fn check_says_what_a_start_would_survive() {
    let unresolved =
        configuration(&[], "table = { file = \"no/such/table\" }\n[limits]\nconnections = 100\n")
            .replace("[upstream.web]\n", "[upstream.web]\nbackends = [\"does-not-exist.invalid:80\"]\n");
    let file = File::new(&unresolved);
    let output = output(&["check", "--config", file.as_str()]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("cannot resolve \"does-not-exist.invalid\" of backend web/"), "{said}");
    assert!(said.contains("the table of upstream web cannot be saved"), "{said}");
    assert!(said.contains("proxy.toml: valid, 2 warnings\n"), "{said}");
}

#[test]
fn exposed_secrets_are_warned_about_in_check_and_at_start() {
    use std::os::unix::fs::PermissionsExt;
    let file = File::new(&configuration(&[("a", backend("a"))], "ring = { seed_file = \"seed\" }\n"));
    let seed = file.path.with_file_name("seed");
    fs::write(&seed, "0123456789abcdef").unwrap();
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        fs::set_permissions(&seed, fs::Permissions::from_mode(mode)).unwrap();
        let checked = text(&output(&["check", "--config", file.as_str()]).stdout);
        assert_eq!(checked.contains("seed is accessible to all users (mode 0644)"), warned, "{checked}");
        let mut process = Process::start(&["run", "--config", file.as_str()]);
        if warned {
            process.line_with("seed is accessible to all users (mode 0644)");
        }
        process.listening();
        process.signal(Signal::TERM);
        assert_eq!(process.ended(), Some(0));
    }
}

#[test]
fn file_may_be_given_without_an_option() {
    let file = File::new(&configuration(&[("a", backend("a"))], ""));
    assert_eq!(output(&["check", file.as_str()]).status.code(), Some(0));
    assert_eq!(output(&["check", file.as_str(), "--config", file.as_str()]).status.code(), Some(2));
    let explained = output(&["explain", "--config", file.as_str(), "--client", "192.0.2.9"]);
    assert!(text(&explained.stdout).contains("192.0.2.9 (peer address)"), "{}", text(&explained.stdout));
}

#[test]
fn check_does_not_mind_a_running_homing() {
    let text =
        configuration(&[("a", backend("a"))], "[access_log]\nformat = \"json\"\noutput = \"access.log\"\n");
    let file = File::new(&text);
    let process = Process::start(&["run", "--config", file.as_str()]);
    let address = process.listening();
    let same = File::new(&text.replace("127.0.0.1:0", &address.to_string()));
    let output = output(&["check", "--config", same.as_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", self::text(&output.stdout));
    assert!(!same.path.with_file_name("access.log").exists(), "check made a file");
}

#[test]
fn output_is_not_coloured_in_a_pipe() {
    let file = File::new("x = 1\n");
    for command in ["check", "run"] {
        let output = output(&[command, "--config", file.as_str()]);
        assert!(!(text(&output.stdout) + &text(&output.stderr)).contains('\u{1b}'));
    }
}

#[test]
fn sigusr1_reopens_the_log_and_sigusr2_is_ignored() {
    let log = "[access_log]\nformat = \"json\"\noutput = \"access.log\"\n";
    let file = File::new(&configuration(&[("a", backend("a"))], log));
    let path = file.path.with_file_name("access.log");
    let mut process = Process::start(&["run", "--config", file.as_str()]);
    let address = process.listening();
    get(address, "1");
    fs::rename(&path, path.with_extension("1")).unwrap();
    process.signal(Signal::USR1);
    process.line_with("access log reopened");
    get(address, "1");
    process.signal(Signal::USR2);
    process.line_with("SIGUSR2 ignored");
    assert!(get(address, "1").ends_with("\r\n\r\na"));
    process.signal(Signal::QUIT);
    assert_eq!(process.ended(), Some(0));
    let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
    assert_eq!((lines(&path.with_extension("1")), lines(&path)), (1, 2));
}

/// A signal before the proxy listens must not kill it either.
#[test]
fn no_signal_kills_during_the_start() {
    for signal in [Signal::USR1, Signal::USR2, Signal::HUP] {
        let file = File::new(&configuration(&[("a", backend("a"))], ""));
        let mut process = Process::start(&["run", "--config", file.as_str()]);
        process.line_with("open file limit");
        process.signal(signal);
        let address = process.listening();
        assert!(get(address, "1").ends_with("\r\n\r\na"));
        process.signal(Signal::QUIT);
        assert_eq!(process.ended(), Some(0), "{signal:?}");
    }
}

#[test]
fn table_that_cannot_be_saved_is_a_failure() {
    let file = File::new(&configuration(&[("a", backend("a"))], "table = { file = \"sub/table\" }\n"));
    let folder = file.path.with_file_name("sub");
    fs::create_dir(&folder).unwrap();
    let mut process = Process::start(&["run", "--config", file.as_str()]);
    get(process.listening(), "1");
    fs::remove_dir_all(&folder).unwrap();
    process.signal(Signal::TERM);
    assert_eq!(process.ended(), Some(3));
}

#[test]
fn address_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = File::new(&configuration(&[("a", backend("a"))], "").replace("127.0.0.1:0", &address));
    let output = output(&["run", "--config", file.as_str()]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
}

#[test]
fn sighup_reloads_and_sigterm_shuts_down() {
    let file = File::new(&configuration(&[("a", backend("a"))], ""));
    let mut process = Process::start(&["run", "--config", file.as_str()]);
    let address = process.listening();
    assert!(get(address, "1").ends_with("\r\n\r\na"));

    // An invalid file is rejected, and the old configuration stays.
    fs::write(&file.path, "[upstream.web]\nbackends = []\n").unwrap();
    process.signal(Signal::HUP);
    process.line_with("reload failed");
    assert!(get(address, "1").ends_with("\r\n\r\na"));

    // A valid file is applied: the session stays, and new ones go to either backend.
    fs::write(&file.path, configuration(&[("a", backend("a")), ("b", backend("b"))], "")).unwrap();
    process.signal(Signal::HUP);
    process.line_with("configuration reloaded");
    assert!(get(address, "1").ends_with("\r\n\r\na"));
    let spread = (0..64).any(|session| get(address, &format!("new{session}")).ends_with("\r\n\r\nb"));
    assert!(spread, "the added backend gets no new sessions");

    process.signal(Signal::TERM);
    assert_eq!(process.ended(), Some(0));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn sessions_survive_a_restart_with_a_table_file() {
    let backends = [("a", backend("a")), ("b", backend("b")), ("c", backend("c"))];
    let file = File::new(&configuration(&backends, "table = { file = \"table\" }\n"));
    let mut process = Process::start(&["run", "--config", file.as_str()]);
    let address = process.listening();
    let first: Vec<_> = (0..16).map(|session| get(address, &session.to_string())).collect();
    process.signal(Signal::INT);
    assert_eq!(process.ended(), Some(0));

    // Other weights place new sessions elsewhere; existing ones stay.
    let heavier = fs::read_to_string(&file.path).unwrap().replace("id = \"a\"", "id = \"a\"\nweight = 50");
    fs::write(&file.path, heavier).unwrap();
    let process = Process::start(&["run", "--config", file.as_str()]);
    let address = process.listening();
    for (session, before) in first.iter().enumerate() {
        let after = get(address, &session.to_string());
        assert!(after.contains("X-Affinity-Outcome: kept"), "{after}");
        assert_eq!(after.lines().last(), before.lines().last());
    }
}

/// For new sessions.
#[test]
fn explain_matches_the_running_proxy() {
    let backends = ["a", "b", "c", "d"].map(|name| (name, backend(name)));
    for remember in ["remember = \"none\"\n", "remember = \"table\"\n"] {
        let file = File::new(&configuration(&backends, remember));
        let process = Process::start(&["run", "--config", file.as_str()]);
        let address = process.listening();
        for session in 0..24 {
            let cookie = format!("SID=session-{session}");
            let said =
                output(&["explain", "--config", file.as_str(), "--cookie", &cookie, "--path", "/?a=b"]);
            let said = text(&said.stdout);
            let decision = said
                .lines()
                .find_map(|line| line.strip_prefix("decision"))
                .unwrap_or_else(|| panic!("{said}"));
            let backend = decision.trim().split(',').next().unwrap();
            let done = get(address, &format!("session-{session}"));
            assert!(done.ends_with(&format!("\r\n\r\n{backend}")), "{said}\n{done}");
        }
    }
}

/// Sends a request on this connection. Returns the status line, empty if there is no
/// response.
fn ask(stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    if (&*stream).write_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").is_err() {
        return line;
    }
    let mut reader = BufReader::new(stream);
    let _ = reader.read_line(&mut line);
    let mut field = String::new();
    while reader.read_line(&mut field).is_ok_and(|n| n > 2) {
        field.clear();
    }
    let mut body = [0];
    if line.contains("200") {
        reader.read_exact(&mut body).unwrap();
    }
    line.trim_end().to_owned()
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let file = File::new(&configuration(&[("a", backend("a"))], "[timeouts]\nrequest_head = \"1m\"\n"));
    let mut process = Process::start_with_files(64, &["run", "--config", file.as_str()]);
    process.line_with("limits.connections = 16384 may need");
    let address = process.listening();

    // Silent connections take all descriptors, but no client is left waiting.
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    let told = silent.iter().filter(|stream| {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut answer = String::new();
        let _ = BufReader::new(*stream).read_line(&mut answer);
        answer.starts_with("HTTP/1.1 503")
    });
    let told = told.count();
    assert!((100..200).contains(&told), "{told} of 200 connections got a 503");
    // Accepted connections are served, although each needs a backend connection too.
    let mut served = 0;
    for stream in &silent {
        served += u32::from(ask(stream) == "HTTP/1.1 200 OK");
    }
    assert!(served >= 10, "only {served} connections were served");
    // A new connection replaces an idle one.
    for _ in 0..50 {
        let stream = TcpStream::connect(address).unwrap();
        assert_eq!(ask(&stream), "HTTP/1.1 200 OK");
    }
    drop(silent);
    assert!(get(address, "1").ends_with("\r\n\r\na"));
    process.signal(Signal::TERM);
    assert_eq!(process.ended(), Some(0));
}

/// Backend connections may use up the descriptors. Then clients can only be accepted
/// with the reserved one.
#[test]
fn clients_get_503_when_no_descriptor_is_left() {
    // Accepts connections, but never answers.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = "[timeouts]\nrequest_head = \"1m\"\n";
    let file = File::new(&configuration(&[("a", hanging.local_addr().unwrap())], more));
    let process = Process::start_with_files(64, &["run", "--config", file.as_str()]);
    let address = process.listening();
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let first_line = |stream: TcpStream| BufReader::new(stream).lines().next().and_then(Result::ok);
    let full = || first_line(connect()).is_some_and(|line| line.starts_with("HTTP/1.1 503"));

    let mut inside = Vec::new();
    loop {
        let stream = connect();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        if stream.peek(&mut [0]).is_ok() {
            break;
        }
        // A connection that sends nothing would make room for others.
        (&stream).write_all(b"GET / HTTP/1.1\r\nHost: t\r\n").unwrap();
        inside.push(stream);
    }
    // Half of the accepted connections need more descriptors than are left.
    for stream in &inside[..inside.len() / 2] {
        (&*stream).write_all(b"\r\n").unwrap();
    }
    let refused = inside[..inside.len() / 2].iter().filter(|stream| {
        let mut answer = [0; 512];
        let read = (&**stream).read(&mut answer).unwrap_or_default();
        text(&answer[..read]).contains("out_of_descriptors")
    });
    let refused = refused.count();
    assert!(refused > 0 && refused < inside.len() / 2, "{refused} of {}", inside.len() / 2);
    for _ in 0..20 {
        assert!(full(), "a client got no 503");
    }
}

#[test]
fn demo_counts_visits_behind_the_proxy() {
    // Find free ports for the applications. The listener uses port 0.
    let free: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let backends: Vec<_> = free.iter().map(|listener| listener.local_addr().unwrap()).collect();
    drop(free);
    let file = File::new(&configuration(&[("one", backends[0]), ("two", backends[1])], ""));
    let mut process = Process::start(&["demo", "--config", file.as_str()]);
    let line = process.line_with("proxy ");
    let address: SocketAddr =
        line.split("http://").nth(1).and_then(|rest| rest.trim_end_matches('/').parse().ok()).unwrap();
    process.line_with("Three things to try");

    let first = get(address, "none");
    let set = first.lines().find_map(|line| line.strip_prefix("set-cookie: SID="));
    let cookie = set.unwrap_or_else(|| panic!("{first}"));
    let cookie = cookie.split(';').next().unwrap();
    for visit in 2..5 {
        let response = get(address, cookie);
        assert!(response.contains(&format!("visit {visit} ")), "{response}");
    }
    process.signal(Signal::TERM);
    assert_eq!(process.ended(), Some(0));
    assert!(TcpStream::connect(backends[0]).is_err(), "an application outlived the proxy");
}

/// Sends a request without a cookie. Returns the whole response.
fn plain(address: SocketAddr, line: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("{line} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// What the guide of the demo says, with the commands of its steps.
#[test]
fn demo_keeps_the_count_when_the_backend_that_answered_is_killed() {
    let free: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = free.iter().map(|listener| listener.local_addr().unwrap()).collect();
    drop(free);
    let backends = ["one", "two", "three"].into_iter().zip(addresses).collect::<Vec<_>>();
    let text = configuration(&backends, "announce = true\n");
    let file = File::new(&text);
    let mut process = Process::start(&["demo", file.as_str()]);
    let address = |line: String| -> SocketAddr {
        line.split("http://").nth(1).and_then(|rest| rest.trim_end_matches('/').parse().ok()).unwrap()
    };
    let proxy = address(process.line_with("proxy "));
    let page = address(process.line_with("cluster "));
    let first = get(proxy, "none");
    let cookie = first
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: SID="))
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let second = get(proxy, cookie);
    assert!(second.contains("visit 2 ") && second.contains(", copied to "), "{second}");

    let on = |path: &str| {
        let mut stream = TcpStream::connect(proxy).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: t\r\nCookie: SID={cookie}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    };
    let pid: i32 = on("/pid").lines().last().unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let third = get(proxy, cookie);
    assert!(third.contains("visit 3 ") && third.contains("(taken over from "), "{third}");

    // The page: stop, start, drain and add.
    let cluster = plain(page, "GET /");
    let killed = cluster.lines().find(|line| line.contains("stopped")).unwrap_or_else(|| panic!("{cluster}"));
    let killed = killed.split(' ').next().unwrap();
    assert!(!plain(page, &format!("POST /backends/{killed}/start")).contains("stopped"));
    assert!(plain(page, &format!("POST /backends/{killed}/drain")).contains(" drain "));
    assert!(plain(page, &format!("POST /backends/{killed}/stop")).contains("stopped"));
    assert!(plain(page, "POST /backends").contains("is running at 127.0.0.1:"));
    assert!(plain(page, "GET /").contains("node1 "));
    assert!(plain(page, "POST /backends/nobody/stop").starts_with("HTTP/1.1 404 "));
    assert!(get(proxy, cookie).contains("visit 4 "));
    assert_eq!(fs::read_to_string(&file.path).unwrap(), text, "the file was changed");
    process.signal(Signal::TERM);
    assert_eq!(process.ended(), Some(0));
}

#[test]
fn page_of_the_demo_refuses_other_sites() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = free.local_addr().unwrap();
    drop(free);
    let file = File::new(&configuration(&[("one", backend)], ""));
    let process = Process::start(&["demo", file.as_str()]);
    let line = process.line_with("cluster ");
    let page: SocketAddr = line.split("http://").nth(1).unwrap().trim_end_matches('/').parse().unwrap();
    for (fields, status) in [
        (format!("Host: {page}\r\nOrigin: http://evil.example"), 403),
        ("Host: evil.example".to_owned(), 421),
        (format!("Host: {page}\r\nOrigin: http://{page}"), 200),
    ] {
        let mut stream = TcpStream::connect(page).unwrap();
        let request = format!(
            "POST /backends/one/stop HTTP/1.1\r\n{fields}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {response}");
    }
}
