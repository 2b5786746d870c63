//! The command line: one file per command.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::telemetry;

pub mod check;
mod demo;
pub mod explain;
mod run;

/// What a command can fail with; said on one line.
type Error = Box<dyn std::error::Error>;

/// A session-affinity reverse proxy: every client goes back to the backend
/// that holds its session.
#[derive(Debug, Parser)]
#[command(name = "homing", version, about)]
struct Arguments {
    /// What is logged, for instance `info` or `warn,homing::control=debug`;
    /// the variable `HOMING_LOG` says it too.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// Log lines as JSON.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy.
    Run {
        /// The configuration file.
        #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file, and show what it means.
    Check {
        /// The configuration file.
        #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Say where a request would go, and why.
    Explain(Box<explain::Question>),
    /// Run the proxy, and at each backend address of the file a small
    /// application that counts visits in sessions.
    Demo {
        /// The configuration file.
        #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Run one instance of the demonstration's application.
    DemoApp {
        /// What it calls itself.
        #[arg(long, value_name = "ID")]
        id: String,
        /// Where it listens.
        #[arg(long, value_name = "ADDRESS")]
        bind: SocketAddr,
        /// End when standard input does.
        #[arg(long, hide = true)]
        until_stdin_ends: bool,
    },
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = telemetry::init_logging(arguments.log.as_deref(), arguments.log_json) {
        return fail(&error);
    }
    let colour = std::io::stdout().is_terminal();
    let done = match arguments.command {
        Command::Run { config } => run::run(&config),
        Command::Check { config } => Ok(print(check::run(&config, colour, run::file_limit()))),
        Command::Explain(question) => Ok(print(explain::run(
            &question,
            crate::affinity::Timestamp::of(std::time::SystemTime::now()),
            colour,
        ))),
        Command::Demo { config } => demo::run(&config),
        Command::DemoApp { id, bind, until_stdin_ends } => demo::run_app(&id, bind, until_stdin_ends),
    };
    done.unwrap_or_else(|error| fail(&*error))
}

#[expect(clippy::print_stdout, reason = "what a command was asked for goes to standard output")]
fn print((code, text): (u8, String)) -> ExitCode {
    print!("{text}");
    ExitCode::from(code)
}

/// Says what went wrong, with its causes.
#[expect(clippy::print_stderr, reason = "what a command says of its own failure goes to the terminal")]
fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("homing: {}", crate::error_chain(error));
    ExitCode::FAILURE
}
