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
        assert!(after.contains("x-affinity-outcome: kept"), "{after}");
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
