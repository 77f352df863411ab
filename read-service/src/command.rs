//! What operators say on the command line to a running service.

pub mod rebuild;
