//! The command line and the environment of a program, read once, before anything starts.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Exit code of a wrong configuration: `EX_USAGE` of sysexits.h.
pub const BAD_CONFIGURATION: u8 = 64;

/// Reads the program's arguments; prints help, version or what is wrong with them.
///
/// # Errors
/// The code to exit with: 0 where help or version was asked for, else [`BAD_CONFIGURATION`].
pub fn parse<A: Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|error| {
        // Nowhere to report a failure to print.
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::SUCCESS }
    })
}

/// Seconds as in "30" or "0.5".
///
/// # Errors
/// Where it is no such number.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
