//! The `homing` binary: see [`homing::cli`].

use std::process::ExitCode;

/// Many small allocations of like size, made and freed by the same thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    homing::cli::main()
}
