//! The test harness: the real proxy in this process, scripted backends, byte-level clients, and
//! helpers that wait for a condition.

mod backend;
mod client;
mod clock;
pub(crate) mod frame_client;
pub(crate) mod frames;
pub(crate) mod http2;
mod http2_backend;
mod message;
mod proxy;
mod raw;
mod script;
mod setup;
mod tls;
mod wait;
mod wire;

pub(crate) use backend::Backend;
pub(crate) use client::Client;
pub(crate) use clock::Clock;
pub(crate) use http2::{H2Client, H2Stream};
pub(crate) use http2_backend::{Http2Backend, Http2Client};
pub(crate) use message::Response;
pub(crate) use proxy::{Proxy, ProxyBuilder};
pub(crate) use raw::RawClient;
pub(crate) use script::{Script, Step};
pub(crate) use setup::{in_front_of, session_and_heir, three};
pub(crate) use tls::{Authority, Pair, PemFiles, TlsClient, TlsSetup, http2_server_config, server_config};
pub(crate) use wait::{Gate, eventually, in_time, settles};
