//! The gRPC server both services run: their services go in, a future that serves until drained comes out.
//!
//! Every server has reflection (v1 and v1alpha) and health (the whole under "", and each service by name). Every call gets a
//! span in the caller's trace, a metric, and a deadline. Draining: health says `NOT_SERVING`, readiness fails, then connections
//! get GOAWAY and calls under way finish; at the second stage connections are cut.
//!
//! What remains for the author of a service:
//! - give each generated server the message limit, as tonic keeps it there:
//!   `XServer::new(room).max_decoding_message_size(config.message_limit)`;
//! - end endless response streams when [`Lifecycle::draining`] is cancelled, or draining lasts up to its limit;
//! - answer a call early where it can use the [`Deadline`] in the request's extensions.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::response::IntoResponse;
use clap::Args;
use http::Request;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::net::{TcpListener, TcpSocket};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use crate::arguments::seconds;
use crate::lifecycle::{self, Lifecycle};
use crate::probes::Readiness;
use crate::telemetry::metrics;

mod connection;
mod health;
mod methods;
mod call;
mod deadline;
mod oversize;
mod observed;

pub use deadline::Deadline;

use call::CallLayer;
use methods::Methods;

/// Largest request message, unless configured: tonic's own default.
pub const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;
/// HTTP/2 flow control windows in bytes: large enough that one busy stream is not throttled by round trips.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Limits of a gRPC server.
#[derive(Args, Clone, Debug)]
pub struct ServerConfig {
    /// Largest request message in bytes
    #[arg(long, env = "MESSAGE_LIMIT", default_value_t = MESSAGE_LIMIT)]
    pub message_limit: usize,
    /// Longest time in seconds for a call that is answered once; a caller's own deadline applies where it is shorter
    #[arg(long, env = "DEFAULT_DEADLINE", default_value = "30", value_parser = seconds)]
    pub default_deadline: Duration,
    /// Calls under way at once on one connection
    #[arg(long, env = "CONCURRENT_STREAMS", default_value_t = 1000)]
    pub concurrent_streams: u32,
    /// Seconds without a sign of life after which a connection is pinged; it is cut if nothing comes back for as long
    /// again; 0 never pings
    #[arg(long, env = "KEEPALIVE", default_value = "20", value_parser = seconds)]
    pub keepalive: Duration,
    /// Seconds from "not serving" to GOAWAY, for balancers to notice
    #[arg(long, env = "DRAIN_NOTICE", default_value = "0", value_parser = seconds)]
    pub drain_notice: Duration,
    /// Seconds that draining may take before calls still under way are dropped
    #[arg(long, env = "DRAIN_LIMIT", default_value = "60", value_parser = seconds)]
    pub drain_limit: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            message_limit: MESSAGE_LIMIT,
            default_deadline: Duration::from_secs(30),
            concurrent_streams: 1000,
            keepalive: Duration::from_secs(20),
            drain_notice: Duration::ZERO,
            drain_limit: lifecycle::DRAIN_LIMIT,
        }
    }
}

/// The contract's answers for what the server itself refuses.
#[derive(Clone, Copy, Debug)]
pub struct StatusTexts {
    /// The deadline passed before the answer was known.
    pub deadline: fn() -> Status,
    /// A message is larger than the service takes.
    pub too_large: fn() -> Status,
    /// The service panicked.
    pub bug: fn() -> Status,
}

/// Listens on `address`; port 0 takes any free port. Call inside the runtime.
///
/// # Errors
/// The port is taken or may not be used; one sentence says so.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("port {} on {} is taken by another process", address.port(), address.ip())
        }
        _ => anyhow!("cannot listen on {address}: {error}"),
    })
}

/// A gRPC server being put together.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    descriptors: &'static [u8],
    texts: StatusTexts,
    names: Vec<&'static str>,
    routes: Routes,
}

impl Server {
    /// A server for the services that `descriptors`, an encoded `FileDescriptorSet`, describes.
    #[must_use]
    pub fn new(config: &ServerConfig, descriptors: &'static [u8], texts: StatusTexts) -> Self {
        Self { config: config.clone(), descriptors, texts, names: Vec::new(), routes: Routes::default() }
    }

    /// Adds a service, under its name in health too.
    #[must_use]
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes = self.routes.add_service(service);
        self
    }

    /// Serves until drained, or cut off by the second stage.
    ///
    /// # Errors
    /// The descriptors cannot be read.
    pub async fn serve(
        self,
        listener: TcpListener,
        lifecycle: &Lifecycle,
        readiness: &Readiness,
    ) -> anyhow::Result<()> {
        let _installed = metrics::handle();
        let (draining, notice) = (lifecycle.draining(), self.config.drain_notice);
        let call = CallLayer::new(
            Arc::new(Methods::of(&self.own_descriptors()?)),
            self.config.default_deadline,
            self.texts,
            draining.clone(),
        );
        let drained = async move {
            draining.cancelled().await;
            tokio::time::sleep(notice).await;
        };
        let keepalive = Some(self.config.keepalive).filter(|keepalive| !keepalive.is_zero());
        tonic::transport::Server::builder()
            .http2_keepalive_interval(keepalive)
            .http2_keepalive_timeout(keepalive)
            .max_concurrent_streams(self.config.concurrent_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .layer(call)
            .add_routes(self.all_routes(lifecycle, readiness)?)
            .serve_with_incoming_shutdown(connection::incoming(listener, &lifecycle.aborting()), drained)
            .await
            .context("the gRPC server failed")
    }

    /// The services' routes with health and reflection. Reflection lists what is served, no more; it also knows the details of
    /// errors, so that tools can print them.
    fn all_routes(&self, lifecycle: &Lifecycle, readiness: &Readiness) -> anyhow::Result<Routes> {
        let reflection = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(self.descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("grpc.health.v1.Health");
            self.names.iter().fold(builder, |builder, name| builder.with_service_name(*name))
        };
        let health = health::service(self.names.clone(), readiness.clone(), lifecycle.draining());
        Ok(self
            .routes
            .clone()
            .add_service(health)
            .add_service(reflection().with_service_name("grpc.reflection.v1.ServerReflection").build_v1()?)
            .add_service(
                reflection().with_service_name("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?,
            )
            .prepare())
    }

    fn own_descriptors(&self) -> anyhow::Result<Vec<FileDescriptorSet>> {
        [
            self.descriptors,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .map(|set| FileDescriptorSet::decode(set).context("the descriptor set cannot be read"))
        .collect()
    }
}

#[cfg(test)]
mod tests;
