//! The only room that speaks Elasticsearch: typed answers, explicit time limits, errors by meaning.
//!
//! Every request goes through `Index::call`, which gives it a time limit, looks at the status and keeps bodies out of
//! errors. What may be repeated is decided by the caller, by [`IndexError`]; nothing here repeats anything.
//!
//! - `document`: read by id, in real time, that is with writes that no refresh has made searchable yet.
//! - `search`: anything that a query finds.
//! - `bulk`: whole documents with the stream's version as external version; an outcome for each.
//! - `items`: what became of each item of a request of many.
//! - `control`: records changed by compare-and-set.
//! - `schema`: indices, aliases, refresh.
//! - `lifecycle`: indices made for a rebuild, switched, dropped.
//! - `every`: all documents of an index.
//! - `repair`: documents written over and deleted.

use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use elasticsearch::http::headers::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};

mod error;
mod document;
mod search;
mod bulk;
mod items;
mod control;
mod schema;
mod lifecycle;
mod every;
mod repair;

pub use bulk::{Bulk, ItemOutcome, SealedBulk, whole};
pub use control::{Put, Record, Stamp};
pub use document::Found;
pub use error::IndexError;
pub use every::Every;
pub use lifecycle::OwnIndex;
pub use schema::{EnsureError, LiveIndex, mapping_hash};
pub use search::{Hit, SearchAnswer};

/// Longest time for a read.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for a write, a refresh or a change of an index.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Answers are not to be compressed: over a network between servers that takes Elasticsearch longer than to send them.
const UNCOMPRESSED: &str = "identity";

/// A connection to Elasticsearch. Clones share it.
#[derive(Clone, Debug)]
pub struct Index {
    transport: Transport,
}

impl Index {
    /// A handle on the node or load balancer with this base URL. Nothing is sent yet.
    ///
    /// # Errors
    /// Where the URL is none, or TLS cannot be set up.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let url = elasticsearch::http::Url::parse(url)?;
        let transport = TransportBuilder::new(SingleNodeConnectionPool::new(url))
            // The environment's would be used otherwise, even for a node on this machine.
            .disable_proxy()
            .header(ACCEPT_ENCODING, HeaderValue::from_static(UNCOMPRESSED))
            .build()?;
        Ok(Self { transport })
    }

    /// Sends a request and gives the body of its answer.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<Bytes, IndexError> {
        let response = self
            .transport
            .send(method, path, HeaderMap::new(), None::<&()>, body, Some(limit))
            .await
            .map_err(|error| IndexError::unanswered(&error))?;
        let status = response.status_code();
        let body = response.bytes().await.map_err(|error| IndexError::unanswered(&error))?;
        if status.is_success() { Ok(body) } else { Err(IndexError::answered(status, &body)) }
    }

    /// Sends JSON and reads JSON.
    async fn json<A: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl serde::Serialize>,
        limit: Duration,
    ) -> Result<A, IndexError> {
        let body = body.map(serde_json::to_vec).transpose()?.map(Bytes::from);
        Ok(serde_json::from_slice(&self.call(method, path, body, limit).await?)?)
    }
}

/// An id as one segment of a path.
fn segment(id: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_one_segment() {
        assert_eq!(segment("0190b6a0-0000_x.y"), "0190b6a0-0000_x.y");
        assert_eq!(segment("a/b?c=ä"), "a%2Fb%3Fc%3D%C3%A4");
    }
}
