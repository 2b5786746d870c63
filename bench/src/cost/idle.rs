//! Memory of idle client connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::proxies::Proxy;
use crate::{interrupt, procfs};

/// Length of the response body, in bytes.
pub const RESPONSE: usize = 100;

/// Connections opened before the first sample, so that one-time allocations are done.
const BEFORE: usize = 200;

/// Opens `count` connections that make one request each and then stay idle. Returns the growth
/// of the proxy's resident set per connection.
#[expect(clippy::cast_precision_loss, reason = "sizes stay far below 2^52")]
pub fn bytes_per_connection(mut proxy: Proxy<'_>, count: usize) -> Result<f64> {
    let mut connections = vec![];
    let address = proxy.address();
    open(&mut connections, BEFORE, address)?;
    let before = procfs::usage(proxy.process().pid())?.resident;
    open(&mut connections, BEFORE + count, address)?;
    // Give the proxy time to free what it allocated for the requests.
    interrupt::pause(Duration::from_millis(500))?;
    let after = procfs::usage(proxy.process().pid())?.resident;
    for (index, connection) in connections.iter_mut().enumerate().step_by(count / 10 + 1) {
        ask(connection, index).context("an idle connection was closed")?;
    }
    Ok(after.saturating_sub(before) as f64 / count as f64)
}

fn open(connections: &mut Vec<TcpStream>, up_to: usize, address: SocketAddr) -> Result<()> {
    while connections.len() < up_to {
        interrupt::check()?;
        let index = connections.len();
        let mut connection =
            TcpStream::connect(address).with_context(|| format!("open connection {index}"))?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        ask(&mut connection, index)?;
        connections.push(connection);
    }
    Ok(())
}

fn ask(connection: &mut TcpStream, session: usize) -> Result<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: bench\r\nCookie: SID={session:016x}\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    let mut answer = [0; 4096];
    let mut got = 0;
    // The response ends with a body of 100 dots.
    while !answer[..got].ends_with(b"....") {
        let read = connection.read(&mut answer[got..])?;
        ensure!(read > 0, "connection closed before the end of the response");
        got += read;
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "status is not 200");
    Ok(())
}
