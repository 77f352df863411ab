//! The query service as callers meet it: a real client, the whole service in process, the real Elasticsearch, and a scripted
//! feed in place of the write service.

mod world;

mod one;
mod watching;
mod lists;
mod searches;
mod reports;
mod at_scale;
mod freshness;
mod refusals;
mod admin;
mod limits;
