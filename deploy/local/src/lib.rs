//! The pair on one machine: what `cargo up`, `cargo down`, `cargo import` and the tests of both services stand on.
//!
//! - [`find`]: what the machine must bring.
//! - [`user`]: the unprivileged user of servers.
//! - [`run`]: what is started together, and the watchdog that leaves nothing of it behind.
//! - [`process`]: a started process.
//! - [`http`]: one GET or PUT.
//! - [`postgres`]: a private PostgreSQL.
//! - [`distribution`]: the official Elasticsearch, fetched and checked.
//! - [`elasticsearch`]: a private node of it.
//! - [`testing`]: both, for a whole `cargo test`.
//! - [`screen`]: progress on a terminal, lines elsewhere.
//! - [`interrupt`]: Ctrl-C, once and twice.
//! - [`import`]: orders from a CSV file into the write service.
//! - [`services`]: the two services as programs.
//! - [`home`]: where `cargo up` keeps things.
//! - [`sample`]: the first import, and the wait for the read side.
//! - [`guide`]: what `cargo up` prints.
//! - [`stack`]: `cargo up` as a whole.

pub mod find;
pub mod user;
pub mod run;
pub mod process;
pub mod http;
pub mod postgres;
pub mod distribution;
pub mod elasticsearch;
pub mod testing;
pub mod screen;
pub mod interrupt;
pub mod import;
pub mod services;
pub mod home;
pub mod sample;
pub mod guide;
pub mod stack;
