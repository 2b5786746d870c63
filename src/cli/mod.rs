//! The command line, with one file per command.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::telemetry;

pub mod check;
mod demo;
pub mod explain;
mod run;
mod signals;
pub mod status;
mod terminal;

use self::terminal::Terminal;

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
    /// Write log lines as JSON, including the warnings and errors at startup.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy.
    Run {
        #[command(flatten)]
        file: File,
    },
    /// Check a configuration file and print a summary.
    Check {
        #[command(flatten)]
        file: File,
    },
    /// Show which backend a request would go to, and why.
    Explain(Box<explain::Question>),
    /// Run the proxy with a demo application on each backend address.
    ///
    /// The application counts visits in sessions.
    Demo {
        /// Configuration file [default: `proxy.toml`, or a built-in one if there is none].
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Configuration file, the same as `--config`.
        #[arg(value_name = "FILE", conflicts_with = "config")]
        file: Option<PathBuf>,
    },
    /// Run one instance of the demo application.
    DemoApp {
        /// Name of the instance.
        #[arg(long, value_name = "ID")]
        id: String,
        /// Address to listen on.
        #[arg(long, value_name = "ADDRESS")]
        bind: SocketAddr,
        /// Address of the demo's page, which knows the other instances.
        #[arg(long, hide = true)]
        stage: Option<SocketAddr>,
        /// Exit when standard input closes.
        #[arg(long, hide = true)]
        until_stdin_ends: bool,
    },
}

/// The configuration file of a command.
#[derive(Debug, clap::Args)]
struct File {
    /// Configuration file.
    #[arg(long, short, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
    /// Configuration file, the same as `--config`.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

impl File {
    fn path(self) -> PathBuf {
        self.file.unwrap_or(self.config)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let terminal = Terminal { json: arguments.log_json };
    if let Err(error) = telemetry::init_logging(arguments.log.as_deref(), arguments.log_json) {
        Terminal { json: false }.failed(&error);
        return ExitCode::from(status::INVALID);
    }
    let done = match arguments.command {
        Command::Run { file } => run::run(&file.path(), terminal),
        Command::Check { file } => {
            let rehearse = crate::app::rehearse;
            let (code, text) = check::run(&file.path(), Terminal::colour(), run::file_limit(), rehearse);
            print(code, &text)
        }
        Command::Explain(question) => {
            let now = crate::affinity::Timestamp::of(std::time::SystemTime::now());
            let (code, text) = explain::run(&question, now, Terminal::colour());
            print(code, &text)
        }
        Command::Demo { config, file } => demo::run(file.or(config), terminal),
        Command::DemoApp { id, bind, stage, until_stdin_ends } => {
            demo::run_app(&id, bind, stage, until_stdin_ends)
        }
    };
    done.unwrap_or_else(|error| {
        terminal.failed(&*error);
        ExitCode::from(status::FAILED)
    })
}

/// Prints the output of a command. Returns its exit status.
fn print(code: u8, text: &str) -> Result<ExitCode, Error> {
    Terminal::print(text)?;
    Ok(ExitCode::from(code))
}
