//! The pair end to end: both services in this process on free ports, a real PostgreSQL, a real Elasticsearch, real clients.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod world;
mod valve;
mod gate;
mod turnstile;
mod scene;
mod questions;

mod order_flow;
mod delivery;
mod freshness;
mod away;
mod elasticsearch_gone;
mod store_restored;
mod tokens;
mod names;
mod copies;
mod watching;
mod paging;
mod rebuild;
mod rebuild_kills;
mod damage;
mod sample;
