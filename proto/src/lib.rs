//! The contract between the pair and everyone else: what both services and their clients share, and all they share.
//!
//! - [`v1`]: messages, clients and servers generated from `orders/v1/*.proto`; the comments there are the specification.
//! - [`encoded`]: the feed's server for answers that are bytes already.
//! - [`reason`]: every error that can reach a caller, in one table.
//! - [`token`]: the consistency token, which carries a write to a read.
//! - [`slice`]: the fixed share of the streams that a stream belongs to.
//! - [`time`]: timestamps of the contract and microseconds.

pub mod encoded;
pub mod reason;
pub mod slice;
pub mod time;
pub mod token;

/// Package `orders.v1`, generated.
#[expect(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes,
    reason = "generated code is held to the rules of its generator"
)]
pub mod v1 {
    tonic::include_proto!("orders.v1");
}

/// The compiled contract as a `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
