//! The read service against a real Elasticsearch. Where a test is about faults of delivery, a scripted feed stands in for the
//! write service; the pair end to end is tested in `tests`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;
mod index;
mod parking;
mod lease;
mod projector;
mod rewritten;
mod bulk_faults;
mod consistency;
mod rebuild_crash;
mod grpc;
