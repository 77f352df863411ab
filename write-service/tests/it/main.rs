//! The write service against a real PostgreSQL, through a real gRPC client.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod process;
mod support;

mod append;
mod append_race;
mod catalog;
mod commands;
mod database_gone;
mod database_stuck;
mod errors;
mod overload;
mod event_store;
mod execute_commands;
mod fan_out;
mod feed;
mod idempotency;
mod one_order;
mod outbox;
mod relay_crash;
mod relay_pause;
mod schema;
