//! The exit statuses of all commands. `docs/operations.md` has the table.

/// Done: the file is valid, or the proxy has shut down.
pub const GOOD: u8 = 0;
/// The configuration is valid, but Homing cannot run with it here.
pub const FAILED: u8 = 1;
/// The command line or the configuration is invalid, or its file cannot be read.
pub const INVALID: u8 = 2;
/// The proxy has shut down, but a table could not be saved.
pub const UNSAVED: u8 = 3;
