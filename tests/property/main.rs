//! Property tests: the pure modules against their contracts and against models.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod balance;
mod contract;
mod control_sim;
mod explain;
mod golden;
mod h1;
mod h1_oracle;
mod history;
mod memory_client_ip;
mod memory_cookie;
mod memory_file;
mod memory_key;
mod memory_table;
mod minimal;
mod proxy_protocol;
mod ring;
mod world;
