//! Integration tests: the whole proxy over real sockets, one module per concern. `harness` has
//! the proxy, backends and clients that they use.
//!
//! Tests do not sleep. They wait for conditions, for at most `HOMING_TEST_PATIENCE_MS` (10 s).

mod addresses;
mod affinity;
mod body;
mod body_rate;
mod churn;
mod client_close;
mod conformance;
mod connection_auth;
mod failover;
mod faults;
mod fields;
mod forwarded;
mod h2_backend;
mod h2_backend_shared;
mod h2_backend_turns;
mod harness;
mod health;
mod hold;
mod http;
mod http2;
mod in_use;
mod interim;
mod layers;
mod learning;
mod limits;
mod malformed;
mod ops;
#[path = "../oracle/mod.rs"]
mod oracle;
mod pipelining;
mod proxy_protocol;
mod queue;
mod reload;
mod routing;
mod sealed_cookie;
mod shutdown;
mod timeouts;
mod tls;
mod tunnel;
mod unix;
