//! The `homing` binary. See [`homing::cli`].

use std::process::ExitCode;

// The workload is many small allocations of similar size, freed by the same thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    homing::cli::main()
}
