//! A strict HTTP/1.1 parser, independent of the code under test. It accepts only one spelling of
//! everything, so that every other parser reads an accepted message the same way.

/// A parsed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The three parts of the request line or status line.
    pub(crate) start: [String; 3],
    /// Fields with lowercase names.
    pub(crate) fields: Vec<(String, String)>,
    /// The content, without chunk framing.
    pub(crate) body: Vec<u8>,
    /// Length of the whole message in bytes.
    pub(crate) len: usize,
}

/// A complete or incomplete message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    Whole(Message),
    /// Incomplete: the head, if that is complete, and part of the body.
    Part(Option<Message>),
}

/// Why parsers might disagree about a message.
pub(crate) type Doubt = String;

/// Parses a request.
pub(crate) fn request(bytes: &[u8]) -> Result<Read, Doubt> {
    let Some(mut message) = head(bytes)? else { return Ok(Read::Part(None)) };
    let [method, target, version] = &message.start;
    check(is_token(method), || format!("method {method:?}"))?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let graphic = path.bytes().all(|b| b.is_ascii_graphic());
    // The query may be UTF-8.
    check(!target.is_empty() && graphic && !query.contains([' ', '#', '\x7f']), || {
        format!("target {target:?}")
    })?;
    check(version == "HTTP/1.1", || format!("version {version:?}"))?;
    check(message.values("host").count() == 1, || "Host".to_owned())?;
    let framing = message.framing()?.unwrap_or(Framing::Length(0));
    message.read_body(bytes, framing, false)
}

/// Parses a response to a request with this method. `ended`: whether the connection has closed.
pub(crate) fn response(bytes: &[u8], method: &str, ended: bool) -> Result<Read, Doubt> {
    let Some(mut message) = head(bytes)? else { return Ok(Read::Part(None)) };
    let [version, status, _] = &message.start;
    check(version == "HTTP/1.1", || format!("version {version:?}"))?;
    check(status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit()), || format!("status {status:?}"))?;
    let bodiless = method == "HEAD" || status.starts_with('1') || status == "204" || status == "304";
    let framing = message.framing()?;
    let framing = if bodiless { Framing::Length(0) } else { framing.unwrap_or(Framing::Close) };
    message.read_body(bytes, framing, ended)
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

fn head(bytes: &[u8]) -> Result<Option<Message>, Doubt> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let text = &bytes[..end.unwrap_or(bytes.len())];
    for (at, pair) in text.windows(2).enumerate() {
        check((pair[0] == b'\r') == (pair[1] == b'\n'), || format!("line end at {at}"))?;
    }
    check(text.first() != Some(&b'\n'), || "line end".to_owned())?;
    let control = |b: &u8| (*b < b' ' && !b"\t\r\n".contains(b)) || *b == 0x7f;
    check(!text.iter().any(control), || "control character".to_owned())?;
    let Some(end) = end else { return Ok(None) };

    let text: String = text.iter().map(|b| char::from(*b)).collect();
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().splitn(3, ' ').map(str::to_owned);
    let (Some(first), Some(second), Some(third)) = (words.next(), words.next(), words.next()) else {
        return Err("start line".to_owned());
    };
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("field line {line:?}"))?;
        check(is_token(name), || format!("field name {name:?}"))?;
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Ok(Some(Message { start: [first, second, third], fields, body: Vec::new(), len: end + 4 }))
}

impl Message {
    pub(crate) fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        self.fields.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn framing(&self) -> Result<Option<Framing>, Doubt> {
        let lengths: Vec<_> = self.values("content-length").collect();
        let codings: Vec<_> = self.values("transfer-encoding").collect();
        match (&lengths[..], &codings[..]) {
            ([], []) => Ok(None),
            ([length], []) if length.len() < 19 && length.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Some(Framing::Length(length.parse().map_err(|_| "length".to_owned())?)))
            }
            // A length with this many digits exceeds any input.
            ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Some(Framing::Length(usize::MAX)))
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
            _ => Err(format!("framing {lengths:?} {codings:?}")),
        }
    }

    fn read_body(&mut self, bytes: &[u8], framing: Framing, ended: bool) -> Result<Read, Doubt> {
        let rest = &bytes[self.len..];
        let whole = match framing {
            Framing::Length(length) => {
                self.take(rest, length);
                rest.len() >= length
            }
            Framing::Close => {
                self.take(rest, rest.len());
                ended
            }
            Framing::Chunked => self.read_chunks(rest)?,
        };
        Ok(if whole { Read::Whole(self.clone()) } else { Read::Part(Some(self.clone())) })
    }

    fn take(&mut self, rest: &[u8], length: usize) {
        let here = length.min(rest.len());
        self.body.extend_from_slice(&rest[..here]);
        self.len += here;
    }

    /// Reads chunks and trailers; returns false if they are incomplete.
    fn read_chunks(&mut self, mut rest: &[u8]) -> Result<bool, Doubt> {
        loop {
            let Some((line, behind)) = line(rest)? else { return Ok(false) };
            check((1..=16).contains(&line.len()) && line.bytes().all(|b| b.is_ascii_hexdigit()), || {
                format!("chunk size {line:?}")
            })?;
            let size = usize::from_str_radix(&line, 16).map_err(|_| format!("chunk size {line:?}"))?;
            self.len += rest.len() - behind.len();
            rest = behind;
            if size == 0 {
                break;
            }
            self.take(rest, size);
            let Some(behind) = rest.get(size..) else { return Ok(false) };
            if behind.len() < 2 {
                check(b"\r\n".starts_with(behind), || "chunk end".to_owned())?;
                return Ok(false);
            }
            check(behind.starts_with(b"\r\n"), || "chunk end".to_owned())?;
            self.len += 2;
            rest = &behind[2..];
        }
        loop {
            let Some((line, behind)) = line(rest)? else { return Ok(false) };
            self.len += rest.len() - behind.len();
            rest = behind;
            if line.is_empty() {
                return Ok(true);
            }
            check(line.split_once(':').is_some_and(|(name, _)| is_token(name)), || {
                format!("trailer {line:?}")
            })?;
        }
    }
}

/// Splits off the first line. Returns it and the rest; `None` if the line is incomplete.
fn line(bytes: &[u8]) -> Result<Option<(String, &[u8])>, Doubt> {
    let end = bytes.windows(2).position(|w| w == b"\r\n");
    let text = &bytes[..end.unwrap_or(bytes.len())];
    let text = if end.is_none() { text.strip_suffix(b"\r").unwrap_or(text) } else { text };
    check(!text.iter().any(|b| b"\r\n\0".contains(b)), || "line end in a body".to_owned())?;
    let text: String = text.iter().map(|b| char::from(*b)).collect();
    Ok(end.map(|end| (text, &bytes[end + 2..])))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn check(right: bool, doubt: impl FnOnce() -> String) -> Result<(), Doubt> {
    if right { Ok(()) } else { Err(doubt()) }
}
