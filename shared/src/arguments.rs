//! The command line and the environment of a program, read once, before anything starts.

use std::process::ExitCode;

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
