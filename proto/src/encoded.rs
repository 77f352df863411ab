//! The feed's server for answers that are encoded already: stored events are published as the bytes they are, and many subscribers
//! share one encoding.
//!
//! [`order_feed_service_server`] is generated as in [`crate::v1`], except that the answers of `Subscribe` and `Scan` are [`Encoded`].

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, skip_field};
use prost::{DecodeError, Message};

/// A message as its wire bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded(Bytes);

impl Encoded {
    /// The message with these wire bytes, which nobody checks.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The wire bytes of `message`.
    #[must_use]
    pub fn of(message: &impl Message) -> Self {
        Self(message.encode_to_vec().into())
    }
}

impl Message for Encoded {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    /// A server sends these messages and never receives one: what would come in is passed over.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, context)
    }
}

pub use self::generated::order_feed_service_server;

#[expect(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes,
    reason = "generated code is held to the rules of its generator"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/encoded/orders.v1.rs"));
}
