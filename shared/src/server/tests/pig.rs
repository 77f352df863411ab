//! A small real service to try the server with: `test.Pig/Say` has one answer, `test.Pig/Follow` any number.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use prost_types::{FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto};
use tokio::sync::{Notify, Semaphore};
use tonic::{Request, Response};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::*;

pub const SAY: &str = "/test.Pig/Say";
pub const FOLLOW: &str = "/test.Pig/Follow";

/// Answers what it was told, except for a few words.
#[derive(Clone, Debug)]
pub struct Pig {
    /// Told when a call that holds has begun.
    pub begun: Arc<Notify>,
    /// Lets such a call end.
    pub release: Arc<Notify>,
    /// Gets a permit for each such call, and each stream, that is dropped or ends.
    pub left: Arc<Semaphore>,
}

struct Leaving(Arc<Semaphore>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

impl Default for Pig {
    fn default() -> Self {
        Self { begun: Arc::default(), release: Arc::default(), left: Arc::new(Semaphore::new(0)) }
    }
}

impl Pig {
    async fn say(self, request: Request<String>) -> Result<Response<String>, Status> {
        let deadline = request.extensions().get::<Deadline>().copied();
        let text = request.into_inner();
        match text.as_str() {
            "hold" => {
                let _leaving = Leaving(self.left);
                self.begun.notify_one();
                self.release.notified().await;
                Ok(Response::new("held".to_owned()))
            }
            "deadline" => {
                let left = deadline.map(|deadline| deadline.remaining().as_millis().to_string());
                Ok(Response::new(left.unwrap_or_default()))
            }
            "traceparent" => Ok(Response::new(crate::telemetry::trace::current_traceparent())),
            "fail" => Err(Status::internal("told to")),
            "panic" => panic!("told to"),
            _ => Ok(Response::new(text)),
        }
    }

    /// One answer, then nothing until the end of the call, or a panic before the answer has left where it was told to.
    fn follow(self, text: String) -> BoxStream<'static, Result<String, Status>> {
        let leaving = Leaving(self.left);
        let panics = text == "panic";
        let silence = stream::poll_fn(move |_| {
            let _held = &leaving;
            assert!(!panics, "told to");
            Poll::Pending
        });
        stream::once(async { Ok(text) }).chain(silence).boxed()
    }
}

impl NamedService for Pig {
    const NAME: &'static str = "test.Pig";
}

impl Service<http::Request<Body>> for Pig {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let pig = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default())
                .apply_max_message_size_config(Some(1000), None);
            Ok(match request.uri().path() {
                SAY => {
                    let say = service_fn(move |request| pig.clone().say(request));
                    grpc.unary(say, request).await
                }
                FOLLOW => {
                    let follow = service_fn(move |request: Request<String>| {
                        let answers = pig.clone().follow(request.into_inner());
                        async move { Ok::<_, Status>(Response::new(answers)) }
                    });
                    grpc.server_streaming(follow, request).await
                }
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

/// The service's descriptors; made once for each test, so they may as well last.
pub fn descriptors() -> &'static [u8] {
    let method = |name: &str, streams| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".test.Text".to_owned()),
        output_type: Some(".test.Text".to_owned()),
        server_streaming: Some(streams),
        ..Default::default()
    };
    let service = ServiceDescriptorProto {
        name: Some("Pig".to_owned()),
        method: vec![method("Say", false), method("Follow", true)],
        ..Default::default()
    };
    let file = FileDescriptorProto {
        name: Some("test.proto".to_owned()),
        package: Some("test".to_owned()),
        service: vec![service],
        ..Default::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec().leak()
}
