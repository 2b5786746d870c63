# The commands of .ci/run, one by one. Everything here can be run without just.

# List the recipes.
default:
    @just --list

# Check everything that takes only Cargo.
check: fmt lint docs test

# Check the formatting (`cargo fmt --all` to fix it).
fmt:
    cargo fmt --all --check

# Run Clippy; every warning is an error.
lint:
    cargo clippy --locked --all-targets -- -D warnings

# Build the API documentation; every warning is an error.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# Run the tests, or those whose path contains an argument.
test *ARGS:
    cargo test --locked {{ARGS}}

# Accept changed snapshots and regenerate the reference in docs/. Review the diff.
bless:
    INSTA_UPDATE=always UPDATE_DOCS=1 cargo test --locked

# Check licences, sources and known vulnerabilities of dependencies.
deny:
    .ci/deny

# Check that the oldest supported Rust still works.
msrv:
    .ci/msrv

# Measure the time of the hot path's parts, or of those whose name contains an argument.
bench *ARGS:
    cargo bench --locked --bench wall -- {{ARGS}}

# Count the instructions of the hot path's parts; with a commit, compare with it.
instructions *ARGS:
    bench/instructions/run {{ARGS}}

# Fuzz one target until it fails or you stop it.
fuzz TARGET *ARGS:
    cargo +nightly fuzz run {{TARGET}} -- {{ARGS}}

# Fuzz every target for a minute.
fuzz-smoke *SECONDS:
    fuzz/smoke {{SECONDS}}

# Measure line coverage; the report is target/llvm-cov/html/index.html.
coverage:
    cargo llvm-cov --locked --html

# Run the full check, as CI does.
ci:
    .ci/run
