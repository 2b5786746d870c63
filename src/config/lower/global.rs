//! Lowers `[server]`, `[client_ip]`, `[timeouts]`, `[limits]`, `[forwarding]` and
//! `[access_log]`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use ipnet::{IpNet, Ipv4Net};
use toml::de::DeValue;

use super::address::listen_address;
use crate::affinity::client_ip::{ClientIpPolicy, ForwardSource, Mask};
use crate::config::diagnostics::Complaint;
use crate::config::files::Files;
use crate::config::found::Found;
use crate::config::reader::Section;
use crate::config::schema::{self, Rule};
use crate::model::{AccessLog, Forwarding, Limits, LogFormat, LogOutput, Server, Timeouts, UpstreamTimeouts};

pub(super) fn server(section: &Section<'_>) -> Server {
    Server {
        workers: workers(section),
        shutdown_grace: section.get(&schema::SHUTDOWN_GRACE),
        resolve_every: section.get(&schema::RESOLVE_EVERY),
        stream_grace: section.get(&schema::STREAM_GRACE),
        admin: admin(section),
        cancel_on_client_close: section.get(&schema::ON_CLIENT_CLOSE),
    }
}

fn workers(section: &Section<'_>) -> NonZeroUsize {
    let auto = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let Some(found) = section.find(&schema::WORKERS) else { return auto() };
    match found.value {
        DeValue::String(word) if word == "auto" => auto(),
        DeValue::Integer(_) => {
            section.take(schema::WORKER_BOUNDS.read(&found)).and_then(NonZeroUsize::new).unwrap_or_else(auto)
        }
        _ => {
            section.complain(found.wrong_type("\"auto\" or an integer"));
            auto()
        }
    }
}

fn admin(section: &Section<'_>) -> Option<SocketAddr> {
    let found = section.find(&schema::ADMIN)?;
    match found.value {
        DeValue::String(word) if word == "off" => return None,
        DeValue::Boolean(false) => {
            section.complain(found.wrong_type("an address or \"off\"").help("use admin = \"off\""));
            return None;
        }
        _ => {}
    }
    let address = section.take(listen_address(&found, "127.0.0.1"))?;
    if !address.ip().to_canonical().is_loopback() {
        section.complain(
            Complaint::warning(
                "the admin address has no authentication and is reachable from other machines",
            )
            .at(found.span(), "")
            .help(format!("use \"127.0.0.1:{}\", or block access with a firewall", address.port())),
        );
    }
    Some(address)
}

pub(super) fn client_ip(section: &Section<'_>) -> ClientIpPolicy {
    let mut policy = ClientIpPolicy {
        trusted: Vec::new(),
        from: vec![ForwardSource::XForwardedFor],
        mask: Mask { v4: schema::MASK_V4.default, v6: schema::MASK_V6.default },
    };
    if let Some(list) = list_of(section, &schema::TRUSTED, "an array of addresses and networks") {
        policy.trusted = list.iter().filter_map(|found| section.take(network(section, found))).collect();
    }
    if let Some(list) = list_of(section, &schema::FROM, "an array of header names") {
        policy.from = sources(section, &list);
    }
    if let (true, Some(span)) = (policy.trusted.is_empty(), section.span_of(&schema::FROM))
        && section.find(&schema::TRUSTED).is_none()
    {
        section.complain(
            Complaint::warning("`from` has no effect without `trusted`")
                .at(span, "no proxy is trusted")
                .help("add the proxies in front of Homing: trusted = [\"10.0.0.0/8\"]"),
        );
    }
    if let Some(mask) = section.section(&schema::MASK) {
        policy.mask = Mask { v4: mask.get(&schema::MASK_V4), v6: mask.get(&schema::MASK_V6) };
    }
    policy
}

/// Returns the elements of an array, or `None` if the key is missing or invalid.
pub(super) fn list_of<'t>(
    section: &Section<'t>,
    key: &'static schema::Free,
    expected: &str,
) -> Option<Vec<Found<'t>>> {
    section.find(key).and_then(|found| section.take(found.list(expected)))
}

fn network(section: &Section<'_>, found: &Found<'_>) -> Result<IpNet, Complaint> {
    let text = found.text("an address or a network such as \"10.0.0.0/8\"")?;
    let net = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (_, Ok(ip)) => IpNet::from(ip),
        _ => {
            let help = "use an IP address (\"10.0.0.1\") or a network (\"10.0.0.0/8\", \"fd00::/8\")";
            return Err(Complaint::error(format!("invalid IP address or network \"{text}\""))
                .at(found.span(), "")
                .help(help));
        }
    };
    let net = unmapped(net);
    if net.addr() != net.network() {
        section.complain(
            Complaint::warning(format!("network \"{text}\" has host bits set"))
                .at(found.span(), format!("treated as \"{}\"", net.trunc()))
                .help(format!("use \"{}\"", net.trunc())),
        );
    }
    if net.prefix_len() == 0 {
        section.complain(
            Complaint::warning("all peers are trusted; any client can forge its address")
                .at(found.span(), "")
                .help("list only the proxies in front of Homing"),
        );
    }
    Ok(net.trunc())
}

/// Converts IPv4-mapped networks (`::ffff:10.0.0.0/104`) to IPv4, the form in which
/// peers are compared.
fn unmapped(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let (Some(v4), Some(bits)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
        && let Ok(v4) = Ipv4Net::new(v4, bits)
    {
        return IpNet::V4(v4);
    }
    net
}

fn sources(section: &Section<'_>, list: &[Found<'_>]) -> Vec<ForwardSource> {
    let mut from = Vec::new();
    if list.is_empty() {
        section.complain(
            Complaint::error("`from` is empty")
                .or_at(section.span_of(&schema::FROM).unwrap_or_else(|| section.span()))
                .help("to trust no header, remove `trusted` instead"),
        );
    }
    for found in list {
        let Some(source) = section.take(schema::FROM_WORDS.read(found)) else { continue };
        if from.contains(&source) {
            section.complain(Complaint::error("duplicate header").at(found.span(), ""));
        } else {
            from.push(source);
        }
    }
    from
}

pub(super) fn timeouts(section: &Section<'_>) -> Timeouts {
    Timeouts {
        request_head: section.get(&schema::REQUEST_HEAD),
        keep_alive: section.get(&schema::KEEP_ALIVE),
        proxy_protocol: section.get(&schema::PROXY_HEADER),
        tls_handshake: section.get(&schema::TLS_HANDSHAKE),
        upstream: UpstreamTimeouts {
            connect: section.get(&schema::CONNECT),
            response_head: section.get(&schema::RESPONSE_HEAD),
            body_idle: section.get(&schema::BODY_IDLE),
            min_body_rate: section.get(&schema::MIN_BODY_RATE),
            body_rate_window: section.get(&schema::BODY_RATE_WINDOW),
            tunnel_idle: section.get(&schema::TUNNEL_IDLE),
        },
    }
}

pub(super) fn limits(section: &Section<'_>) -> Limits {
    let head_bytes = section.get(&schema::HEAD_BYTES);
    let mut uri_bytes = section.get(&schema::URI_BYTES);
    if uri_bytes > head_bytes {
        if let Some(span) = section.span_of(&schema::URI_BYTES) {
            let mut complaint = Complaint::warning(
                "`uri_bytes` is larger than `head_bytes`, which includes the request target",
            )
            .at(span, "has no effect");
            if let Some(head) = section.span_of(&schema::HEAD_BYTES) {
                complaint = complaint.also(head, "");
            }
            section.complain(complaint.help("raise `head_bytes`"));
        }
        uri_bytes = head_bytes;
    }
    Limits {
        head_bytes: usize::try_from(head_bytes).unwrap_or(usize::MAX),
        fields: section.get(&schema::FIELDS),
        uri_bytes: usize::try_from(uri_bytes).unwrap_or(usize::MAX),
        body_bytes: body_bytes(section),
        connections: section.get(&schema::CONNECTIONS),
        streams: section.get(&schema::STREAMS),
        stream_window: u32::try_from(section.get(&schema::STREAM_WINDOW)).unwrap_or(u32::MAX),
        connections_per_client: section.get(&schema::CONNECTIONS_PER_CLIENT),
        handshakes: section.get(&schema::HANDSHAKES),
        streams_per_client: section.get(&schema::STREAMS_PER_CLIENT),
        memory: memory(section),
    }
}

fn memory(section: &Section<'_>) -> Option<u64> {
    let found = section.find(&schema::MEMORY)?;
    match found.value {
        DeValue::String(word) if word == "auto" => None,
        _ => section.take(schema::MEMORY_BOUNDS.read(&found)),
    }
}

fn body_bytes(section: &Section<'_>) -> Option<u64> {
    let found = section.find(&schema::BODY_BYTES)?;
    match found.value {
        DeValue::String(word) if word == "none" => None,
        _ => section.take(schema::BODY_BOUNDS.read(&found)),
    }
}

pub(super) fn forwarding(section: &Section<'_>) -> Forwarding {
    Forwarding {
        x_forwarded: section.get(&schema::X_FORWARDED),
        forwarded: section.get(&schema::FORWARDED),
        via: via(section),
        underscores: section.get(&schema::UNDERSCORES),
        trace: section.get(&schema::TRACE),
    }
}

fn via(section: &Section<'_>) -> Option<String> {
    let default = || Some("homing".to_owned());
    let Some(found) = section.find(&schema::VIA) else { return default() };
    if matches!(found.value, DeValue::Boolean(false)) {
        section.complain(found.wrong_type("a string").help("use via = \"off\""));
        return default();
    }
    match section.take(found.text("a string"))? {
        "off" => None,
        name if is_token(name) && name.len() <= 64 => Some(name.to_owned()),
        _ => {
            section.complain(
                Complaint::error("invalid name for `via`")
                    .at(found.span(), "")
                    .help("use up to 64 letters, digits and `-`, or \"off\""),
            );
            None
        }
    }
}

/// Returns true if `text` is a token (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

pub(super) fn access_log(section: &Section<'_>, files: &Files<'_>) -> AccessLog {
    let format = section.get(&schema::FORMAT);
    let output = match section.get_optional(&schema::OUTPUT).as_deref() {
        None | Some("stdout") => LogOutput::Stdout,
        Some("stderr") => LogOutput::Stderr,
        Some(path) => LogOutput::File(files.resolve(path)),
    };
    if let (LogFormat::Off, None, Some(span)) =
        (format, section.find(&schema::FORMAT), section.span_of(&schema::OUTPUT))
    {
        section.complain(
            Complaint::warning("`output` has no effect: the access log is off")
                .at(span, "")
                .help("set format = \"json\" or \"text\""),
        );
    }
    AccessLog { format, output, queue: section.get(&schema::QUEUE) }
}
