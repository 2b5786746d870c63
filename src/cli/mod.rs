//! The command line, with one file per command.

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

/// The error of a command, printed on one line.
type Error = Box<dyn std::error::Error>;

/// A session-affinity reverse proxy.
///
/// Sends every client back to the backend that holds its session.
#[derive(Debug, Parser)]
#[command(name = "homing", version)]
struct Arguments {
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        help = "Log filter, such as `info` or `warn,homing::control=debug` [env: HOMING_LOG]"
    )]
    log: Option<String>,
    /// Write log lines as JSON.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy.
    Run {
        /// Configuration file.
        #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file and print a summary.
    Check {
        /// Configuration file.
        #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Show which backend a request would go to, and why.
    Explain(Box<explain::Question>),
    /// Run the proxy with a demo application on each backend address.
    ///
    /// The application counts visits in sessions.
    Demo {
        /// Configuration file.
        #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Run one instance of the demo application.
    DemoApp {
        /// Name of the instance.
        #[arg(long, value_name = "ID")]
        id: String,
        /// Address to listen on.
        #[arg(long, value_name = "ADDRESS")]
        bind: SocketAddr,
        /// Exit when standard input closes.
        #[arg(long, hide = true)]
        until_stdin_ends: bool,
    },
}

/// Runs the command line.
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

#[expect(clippy::print_stdout, reason = "the output of a command goes to stdout")]
fn print((code, text): (u8, String)) -> ExitCode {
    print!("{text}");
    ExitCode::from(code)
}

/// Prints an error with its causes.
#[expect(clippy::print_stderr, reason = "the error of a command goes to stderr")]
fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("error: {}", crate::error_chain(error));
    ExitCode::FAILURE
}
