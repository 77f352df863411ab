//! What every benchmark stands on: private servers, the service as a process of its own, floors, and one table in the end.
//!
//! A figure is a ratio to a floor that was measured in the same run, right before and right after it, on the same tables. The
//! benchmark itself is the load generator; the service and PostgreSQL are processes of their own.

pub mod appends;
pub mod latency;
pub mod pair;
pub mod table;
pub mod usage;
