//! An oracle for what Homing forwards: the real proxy between a client that sends arbitrary bytes
//! and a backend that records them, and between a backend that sends arbitrary bytes and a client.
//! Used by `tests/it` with a seeded corpus, and by the fuzz target `forwarded`.
//!
//! Requests: the backend gets exactly the requests that Homing parses, with the same method, target
//! and body, and no complete request that Homing rejects. Responses: the client sees the backend's
//! response or an error, and the next response belongs to the next request.

mod backend;
mod reader;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use homing::app::{self, Running};
use homing::h1::{
    Body, BodyLimits, FieldKind, FieldSlots, Framing, HeadLimits, Parsed, Version, parse_request,
    parse_response,
};

use backend::{PATIENCE, Parrot, Recorder, Saying};
use reader::{Message, Read};

/// Interim responses that Homing accepts before a final one.
const MAX_INTERIM: usize = 16;

/// The proxy, a backend that records requests, and a backend that sends given responses.
pub(crate) struct Oracle {
    _running: Running,
    requests: SocketAddr,
    responses: SocketAddr,
    recorder: Recorder,
    parrot: Parrot,
    limits: HeadLimits,
}

/// A request as Homing parses it.
#[derive(Debug, PartialEq, Eq)]
struct Accounted {
    method: String,
    target: String,
    body: Vec<u8>,
    /// Whether Homing answers it itself: OPTIONS that may go no further.
    here: bool,
}

/// All requests of a connection, as Homing parses them.
#[derive(Debug)]
struct Account {
    whole: Vec<Accounted>,
    /// A request whose body is malformed or incomplete.
    broken: Option<Accounted>,
    /// Whether a request head was rejected.
    refused: bool,
    /// Whether the input ends within a head.
    cut: bool,
}

impl Oracle {
    /// Starts the proxy and the backends.
    ///
    /// # Panics
    /// If they cannot be started.
    pub(crate) fn start() -> Self {
        let (recorder, parrot) = (Recorder::start(), Parrot::start());
        // One backend connection per request: all bytes on it belong to that request.
        let toml = format!(
            r#"
            [server]
            workers = 1
            on_client_close = "finish"
            [[listener]]
            bind = "127.0.0.1:0"
            http2 = false
            [[listener]]
            bind = "127.0.0.2:0"
            [[route]]
            host = "parrot"
            upstream = "parrot"
            [[route]]
            upstream = "recorder"
            [upstream.recorder]
            health_check = false
            passive = false
            pool = {{ max_idle = 0 }}
            backends = ["{}"]
            [upstream.parrot]
            health_check = false
            passive = false
            backends = ["{}"]
            "#,
            recorder.address, parrot.address
        );
        let config = match homing::config::parse(&toml, "oracle.toml") {
            Ok(loaded) => loaded.config,
            Err(problems) => panic!("{problems}"),
        };
        let limits = &config.limits;
        let limits =
            HeadLimits { head_bytes: limits.head_bytes, fields: limits.fields, uri_bytes: limits.uri_bytes };
        let running = app::start(config, None).expect("start the proxy");
        let addresses: Vec<_> = running.addresses().iter().filter_map(homing::model::Bind::ip).collect();
        Self { requests: addresses[0], responses: addresses[1], _running: running, recorder, parrot, limits }
    }

    /// Sends `input` from a client in one piece, then closes the sending side.
    ///
    /// # Panics
    /// If the backend or the client gets anything other than what Homing parses.
    pub(crate) fn check_requests(&self, input: &[u8]) {
        let account = self.account(input);
        let mut client = connect(self.requests);
        // A proxy that rejects a request need not read the rest.
        let _ = client.write_all(input);
        let _ = client.shutdown(Shutdown::Write);
        let (said, clean) = read_to_end(&mut client);

        let mut connections = self.recorder.take().into_iter();
        for expected in account.whole.iter().filter(|request| !request.here) {
            let bytes = connections.next().unwrap_or_else(|| panic!("{expected:?} was not forwarded"));
            match reader::request(&bytes) {
                Ok(Read::Whole(message)) => {
                    assert_eq!(message.len, bytes.len(), "bytes after the request");
                    assert_eq!(*expected, Accounted::of(message));
                }
                other => panic!("{expected:?} was forwarded as {other:?}"),
            }
        }
        for bytes in connections {
            // The start of a request that turned out to be malformed, or a retry of it.
            let broken = account.broken.as_ref().expect("a request that Homing did not parse was forwarded");
            match reader::request(&bytes) {
                Ok(Read::Part(None)) => {}
                Ok(Read::Part(Some(message))) => {
                    let seen = Accounted::of(message);
                    assert_eq!((&seen.method, &seen.target), (&broken.method, &broken.target));
                    assert!(broken.body.starts_with(&seen.body), "{seen:?} is not a part of {broken:?}");
                }
                other => panic!("{broken:?} was forwarded as {other:?}"),
            }
        }

        let mut rest = &said[..];
        for request in &account.whole {
            let answer = final_response(&mut rest, &request.method);
            assert_eq!(answer.start[1], "200", "{answer:?} to {request:?}");
            let backend = if request.here { None } else { Some("recorder") };
            assert!(answer.values("x-backend").eq(backend), "{answer:?}");
        }
        if !rest.is_empty() {
            assert!(
                account.refused || account.broken.is_some(),
                "a response without a request: {}",
                rest.escape_ascii()
            );
            let method = account.broken.as_ref().map_or("GET", |broken| &broken.method);
            let answer = final_response(&mut rest, method);
            let here = account.broken.as_ref().is_some_and(|broken| broken.here);
            assert!(here || answer.start[1].as_str() >= "400", "{answer:?}");
            assert_eq!(rest.escape_ascii().to_string(), "", "bytes after an error response");
        } else if account.refused {
            panic!("rejected without a response");
        }
        assert!(clean || account.cut || account.broken.is_some(), "the connection was reset");
    }

    /// Responds from the backend with `input` after its first byte, which selects the request method
    /// and whether the backend then closes the connection.
    ///
    /// # Panics
    /// If the client gets anything else, or the next response belongs to another request.
    pub(crate) fn check_response(&self, input: &[u8]) {
        let Some((choice, said)) = input.split_first() else { return };
        let method = if choice & 1 == 0 { "GET" } else { "HEAD" };
        let model = self.model(said, method);
        let close = choice & 2 != 0 || !model.whole || model.until_close;
        self.parrot.tell(Saying { bytes: said.to_vec(), close });

        let mut client = connect(self.responses);
        client
            .write_all(format!("{method} /told HTTP/1.1\r\nHost: parrot\r\n\r\n").as_bytes())
            .expect("send");
        let mut got = Vec::new();
        let Some(first) = next_response(&mut client, &mut got, method) else {
            assert!(!model.whole, "a complete response was truncated: {model:?}");
            return;
        };
        if model.whole && model.interim <= MAX_INTERIM && model.status != 101 {
            assert_eq!(first.start[1], model.status.to_string());
            assert_eq!(first.body.escape_ascii().to_string(), model.body.escape_ascii().to_string());
        } else {
            assert_eq!(first.start[1], "502", "{model:?}");
        }
        let asked = client.write_all(b"GET /next HTTP/1.1\r\nHost: parrot\r\n\r\n");
        if asked.is_ok()
            && let Some(next) = next_response(&mut client, &mut got, "GET")
        {
            assert_eq!((next.start[1].as_str(), next.body.as_slice()), ("200", b"/next".as_slice()));
            assert!(next.values("x-backend").eq(["parrot"]), "{next:?}");
        }
        assert_eq!(got.escape_ascii().to_string(), "", "bytes after a response");
    }

    /// Parses a client's bytes with Homing's codec.
    fn account(&self, input: &[u8]) -> Account {
        let mut account = Account { whole: Vec::new(), broken: None, refused: false, cut: false };
        let mut at = 0;
        while at < input.len() {
            let mut slots = FieldSlots::new();
            let (head, len) = match parse_request(&input[at..], &mut 0, &self.limits, &mut slots) {
                Ok(Parsed::Complete { head, len }) => (head, len),
                Ok(Parsed::Partial) => {
                    account.cut = true;
                    break;
                }
                Err(_) => {
                    account.refused = true;
                    break;
                }
            };
            if head.method == "TRACE" {
                account.refused = true;
                break;
            }
            let (body, used, whole) = data(head.framing, &input[at + len..]);
            let limit = head.fields.first(FieldKind::MaxForwards).map(|field| field.value);
            let zero =
                limit.is_some_and(|value| !value.is_empty() && value.iter().all(|digit| *digit == b'0'));
            let here = zero && head.method == "OPTIONS";
            let request = Accounted {
                method: head.method.to_owned(),
                target: head.target.path_and_query().to_owned(),
                body,
                here,
            };
            at += len + used;
            if !whole {
                account.broken = Some(request);
                break;
            }
            account.whole.push(request);
            // After its own answer, Homing reads no body.
            let stays = head.version == Version::Http11 && head.framing == Framing::None;
            if !head.persistent() || here && !stays {
                break;
            }
        }
        account
    }

    /// Parses a backend's bytes with Homing's codec.
    fn model(&self, said: &[u8], method: &str) -> Model {
        let mut model = Model::default();
        let mut at = 0;
        loop {
            let mut slots = FieldSlots::new();
            let Ok(Parsed::Complete { head, len }) =
                parse_response(&said[at..], &mut 0, &self.limits, method, &mut slots)
            else {
                return model;
            };
            at += len;
            model.status = head.status;
            if (100..200).contains(&head.status) && head.status != 101 {
                model.interim += 1;
                continue;
            }
            let (body, _, whole) = data(head.framing, &said[at..]);
            return Model { whole, body, until_close: head.framing == Framing::UntilClose, ..model };
        }
    }
}

/// A response as Homing's codec parses it.
#[derive(Debug, Default)]
struct Model {
    interim: usize,
    status: u16,
    body: Vec<u8>,
    whole: bool,
    until_close: bool,
}

impl Accounted {
    fn of(message: Message) -> Self {
        let [method, target, _] = message.start;
        // The reader takes every byte for a character.
        let target: Vec<u8> = target.chars().filter_map(|c| u8::try_from(c).ok()).collect();
        let target = String::from_utf8_lossy(&target).into_owned();
        Self { method, target, body: message.body, here: false }
    }
}

/// Returns the content of a body, the number of bytes consumed, and whether it is complete.
fn data(framing: Framing, input: &[u8]) -> (Vec<u8>, usize, bool) {
    let mut body = Body::new(framing, BodyLimits::default()).with_data_only();
    let (mut data, mut at) = (Vec::new(), 0);
    while !body.is_done() {
        let Ok(step) = body.advance(&input[at..]) else { return (data, at, false) };
        data.extend_from_slice(&input[at..][step.forward]);
        at += step.consumed;
        if step.consumed == 0 {
            return (data, at, body.finish_at_eof().is_ok());
        }
    }
    (data, at, true)
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("connect to the proxy");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.set_nodelay(true).expect("no delay");
    client
}

/// Reads to the end. Returns the bytes, and whether the connection closed without a reset.
fn read_to_end(client: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match client.read_to_end(&mut bytes) {
        Ok(_) => (bytes, true),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => (bytes, false),
        Err(error) => {
            panic!("the proxy did not close the connection: {error}, after {}", bytes.escape_ascii())
        }
    }
}

/// Splits the next final response off `rest`.
fn final_response(rest: &mut &[u8], method: &str) -> Message {
    loop {
        match reader::response(rest, method, true) {
            Ok(Read::Whole(message)) => {
                *rest = &rest[message.len..];
                if !message.start[1].starts_with('1') {
                    return message;
                }
            }
            other => panic!("{other:?} in {}", rest.escape_ascii()),
        }
    }
}

/// Reads the next final response; `None` if the connection ends before it is complete.
fn next_response(client: &mut TcpStream, got: &mut Vec<u8>, method: &str) -> Option<Message> {
    let mut ended = false;
    loop {
        match reader::response(got, method, ended) {
            Ok(Read::Whole(message)) => {
                got.drain(..message.len);
                if !message.start[1].starts_with('1') || message.start[1] == "101" {
                    return Some(message);
                }
                continue;
            }
            Ok(Read::Part(_)) if ended => {
                got.clear();
                return None;
            }
            Ok(Read::Part(_)) => {}
            Err(doubt) => panic!("{doubt} in {}", got.escape_ascii()),
        }
        let mut room = [0; 16 * 1024];
        match client.read(&mut room) {
            Ok(0) => ended = true,
            Ok(n) => got.extend_from_slice(&room[..n]),
            // The fuzzer's timer interrupts reads.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                got.clear();
                return None;
            }
            Err(error) => panic!("no response: {error}, after {}", got.escape_ascii()),
        }
    }
}
