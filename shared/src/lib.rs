//! What both services need and neither is about: time, waiting, telemetry, life cycle, probes, the gRPC server.
//!
//! - [`arguments`]: command line and environment.
//! - [`clock`]: the one source of wall-clock time.
//! - [`backoff`]: how long to wait before the next attempt.
//! - [`crash`]: places at which a test lets the process die.
//! - [`telemetry`]: logs, traces, metrics.
//! - [`lifecycle`]: tasks, and their end in two stages.
//! - [`probes`]: readiness; `/metrics`, `/livez`, `/readyz`.
//! - [`server`]: the gRPC server with health, reflection, deadlines, spans and metrics.

pub mod arguments;
pub mod clock;
pub mod backoff;
pub mod crash;
pub mod telemetry;
pub mod lifecycle;
pub mod probes;
pub mod server;
