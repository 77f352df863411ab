use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;

use super::*;

mod pig;
mod raw;

use pig::{FOLLOW, Pig, SAY, descriptors};

/// Longer than anything here takes; a test that reaches it has failed.
const SOON: Duration = Duration::from_secs(20);

const TEXTS: StatusTexts = StatusTexts {
    deadline: || Status::deadline_exceeded("the deadline passed"),
    too_large: || Status::resource_exhausted("message too large"),
    bug: || Status::internal("a bug"),
};

struct World {
    pig: Pig,
    lifecycle: Lifecycle,
    readiness: Readiness,
    channel: Channel,
    address: SocketAddr,
}

async fn world(config: ServerConfig) -> World {
    let lifecycle = Lifecycle::new(Duration::from_mins(1));
    let readiness = Readiness::new();
    let pig = Pig::default();
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(&config, descriptors(), TEXTS).service(pig.clone());
    let (life, ready) = (lifecycle.clone(), readiness.clone());
    lifecycle.spawn("server", async move { server.serve(listener, &life, &ready).await });
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    World { pig, lifecycle, readiness, channel, address }
}

impl World {
    async fn say(&self, text: &str, headers: &[(&'static str, &str)]) -> Result<String, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let codec = ProstCodec::<String, String>::default();
        let path = http::uri::PathAndQuery::from_static(SAY);
        let answer = client.unary(request(text, headers), path, codec);
        timeout(SOON, answer).await.unwrap().map(tonic::Response::into_inner)
    }

    async fn follow(&self, headers: &[(&'static str, &str)]) -> Streaming<String> {
        self.follow_text("first", headers).await
    }

    async fn follow_text(&self, text: &str, headers: &[(&'static str, &str)]) -> Streaming<String> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let codec = ProstCodec::<String, String>::default();
        let path = http::uri::PathAndQuery::from_static(FOLLOW);
        client.server_streaming(request(text, headers), path, codec).await.unwrap().into_inner()
    }

    async fn health(&self, service: &str) -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(self.channel.clone()).check(request).await?;
        Ok(answer.into_inner().status())
    }

    /// Waits until so many held calls or streams have been left.
    async fn left(&self, count: u32) {
        timeout(SOON, self.pig.left.acquire_many(count)).await.unwrap().unwrap().forget();
    }

    async fn stopped(&self) {
        timeout(SOON, self.lifecycle.stopped()).await.unwrap();
    }
}

fn request(text: &str, headers: &[(&'static str, &str)]) -> tonic::Request<String> {
    let mut request = tonic::Request::new(text.to_owned());
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

async fn next(stream: &mut Streaming<String>) -> Result<Option<String>, Status> {
    timeout(SOON, stream.message()).await.unwrap()
}

/// Installs traces for the whole test process: the server works on more threads than a test's own.
fn traces() {
    use opentelemetry::trace::TracerProvider as _;
    use tracing_subscriber::layer::SubscriberExt as _;
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    INSTALLED.call_once(|| {
        let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    });
}

fn limited(default_deadline: Duration) -> ServerConfig {
    ServerConfig { default_deadline, ..ServerConfig::default() }
}

#[tokio::test]
async fn a_passed_deadline_of_the_caller_is_deadline_exceeded_and_drops_the_work() {
    let world = world(ServerConfig::default()).await;
    for timeout in ["0n", "1n", "1m", "2m", "50m"] {
        let status = raw::call(world.address, SAY, "hold", timeout).await.status;
        assert_eq!(
            (status.code(), status.message()),
            (Code::DeadlineExceeded, "the deadline passed"),
            "{timeout}"
        );
        world.left(1).await;
    }
}

#[tokio::test]
async fn a_stream_ends_by_the_callers_deadline_with_trailers() {
    let world = world(limited(Duration::from_millis(1))).await;
    let answer = raw::call(world.address, FOLLOW, "first", "50m").await;
    assert_eq!((answer.messages, answer.status.code()), (1, Code::DeadlineExceeded));
    world.left(1).await;
}

#[tokio::test]
async fn the_servers_own_deadline_caps_the_callers() {
    let world = world(limited(Duration::from_millis(50))).await;
    for headers in [&[][..], &[("grpc-timeout", "1H")], &[("grpc-timeout", "soon")]] {
        assert_eq!(
            world.say("hold", headers).await.unwrap_err().code(),
            Code::DeadlineExceeded,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn a_call_knows_its_deadline() {
    let world = world(ServerConfig::default()).await;
    let left: u64 = world.say("deadline", &[("grpc-timeout", "10S")]).await.unwrap().parse().unwrap();
    assert!((1..=10_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_stream_outlives_the_servers_deadline() {
    let world = world(limited(Duration::from_millis(1))).await;
    let mut stream = world.follow(&[]).await;
    assert_eq!(next(&mut stream).await.unwrap().as_deref(), Some("first"));
    assert_eq!(world.say("hold", &[]).await.unwrap_err().code(), Code::DeadlineExceeded);
    let silent = futures_util::poll!(std::pin::pin!(stream.message()));
    assert!(silent.is_pending());
}

#[tokio::test]
async fn a_too_large_message_is_refused_in_the_contracts_words() {
    let world = world(ServerConfig::default()).await;
    let status = world.say(&"x".repeat(1001), &[]).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "message too large"));
    assert_eq!(world.say(&"x".repeat(900), &[]).await.unwrap().len(), 900);
}

#[tokio::test]
async fn a_panic_is_answered_in_the_contracts_words_and_ends_one_call_only() {
    let world = world(ServerConfig::default()).await;
    let (held, ()) = tokio::join!(world.say("hold", &[]), async {
        world.pig.begun.notified().await;
        let status = world.say("panic", &[]).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, "a bug"));
        let mut stream = world.follow_text("panic", &[]).await;
        let status = timeout(SOON, stream.message()).await.unwrap().unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, "a bug"));
        let dropped = timeout(SOON, world.pig.left.acquire()).await.unwrap().unwrap();
        dropped.forget();
        world.pig.release.notify_one();
    });
    assert_eq!(held.unwrap(), "held");
}

#[tokio::test]
async fn draining_says_so_first_and_lets_the_call_under_way_finish() {
    let world =
        world(ServerConfig { drain_notice: Duration::from_hours(1), ..ServerConfig::default() }).await;
    let (held, ()) = tokio::join!(world.say("hold", &[]), async {
        world.pig.begun.notified().await;
        assert_eq!(world.health("").await.unwrap(), ServingStatus::Serving);
        world.lifecycle.drain();
        assert_eq!(world.health("").await.unwrap(), ServingStatus::NotServing);
        world.pig.release.notify_one();
    });
    assert_eq!(held.unwrap(), "held");
}

#[tokio::test]
async fn a_drained_server_has_answered_what_was_asked_and_takes_no_more() {
    let world = world(ServerConfig::default()).await;
    let (held, ()) = tokio::join!(world.say("hold", &[]), async {
        world.pig.begun.notified().await;
        world.lifecycle.drain();
        while tokio::net::TcpStream::connect(world.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        world.pig.release.notify_one();
    });
    assert_eq!(held.unwrap(), "held");
    world.stopped().await;
    assert!(!world.lifecycle.failed());
}

#[tokio::test]
async fn the_second_stage_cuts_calls_that_do_not_end() {
    let world = world(ServerConfig::default()).await;
    let mut stream = world.follow(&[]).await;
    assert_eq!(next(&mut stream).await.unwrap().as_deref(), Some("first"));
    let (held, ()) = tokio::join!(world.say("hold", &[]), async {
        world.pig.begun.notified().await;
        world.lifecycle.drain();
        world.lifecycle.abort();
    });
    assert!(held.is_err());
    assert!(next(&mut stream).await.is_err());
    world.stopped().await;
    world.left(2).await;
}

#[tokio::test]
async fn health_follows_readiness_by_name_and_ends_its_watches() {
    let world = world(ServerConfig::default()).await;
    let store = world.readiness.condition("store");
    let mut client = HealthClient::new(world.channel.clone());
    let request = HealthCheckRequest { service: "test.Pig".to_owned() };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    store.set(true);
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(world.health("test.Pig").await.unwrap(), ServingStatus::Serving);
    assert_eq!(world.health("test.Cow").await.unwrap_err().code(), Code::NotFound);
    world.lifecycle.drain();
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(watch.next().await.is_none());
    world.stopped().await;
}

macro_rules! reflection_lists_what_is_served {
    ($test:ident, $version:ident) => {
        #[tokio::test]
        async fn $test() {
            use tonic_reflection::pb::$version as pb;
            let world = world(ServerConfig::default()).await;
            let mut client = pb::server_reflection_client::ServerReflectionClient::new(world.channel.clone());
            let ask = |message_request| pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message_request),
            };
            let list = ask(pb::server_reflection_request::MessageRequest::ListServices(String::new()));
            let symbol = "google.rpc.ErrorInfo".to_owned();
            let details = ask(pb::server_reflection_request::MessageRequest::FileContainingSymbol(symbol));
            let requests = futures_util::stream::iter([list, details]).chain(futures_util::stream::pending());
            let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
            let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
            let pb::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
                panic!("{answer:?}")
            };
            let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
            let own = concat!("grpc.reflection.", stringify!($version), ".ServerReflection");
            assert_eq!(names, ["grpc.health.v1.Health", "test.Pig", own]);
            let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
            let pb::server_reflection_response::MessageResponse::FileDescriptorResponse(_) = answer else {
                panic!("{answer:?}")
            };
            // A tool that keeps its stream open does not hold up draining.
            world.lifecycle.drain();
            assert!(timeout(SOON, answers.next()).await.unwrap().is_none());
            world.stopped().await;
        }
    };
}

reflection_lists_what_is_served!(reflection_v1_lists_what_is_served, v1);
reflection_lists_what_is_served!(reflection_v1alpha_lists_what_is_served, v1alpha);

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let world = world(ServerConfig::default()).await;
    world.say("fail", &[]).await.unwrap_err();
    let mut client = Grpc::new(world.channel.clone());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/test.Invented/Path");
    let status =
        client.unary(request("", &[]), path, ProstCodec::<String, String>::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let text = metrics::handle().render();
    let series =
        "rpc_server_call_duration_seconds_count{rpc_method=\"test.Pig/Say\",rpc_status_code=\"INTERNAL\"}";
    assert!(text.contains(series), "{text}");
    assert!(text.contains("rpc_method=\"_OTHER\",rpc_status_code=\"UNIMPLEMENTED\""), "{text}");
    assert!(!text.contains("Invented"), "{text}");
}

#[tokio::test]
async fn a_call_continues_the_trace_of_its_caller() {
    traces();
    let world = world(ServerConfig::default()).await;
    let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let seen = world.say("traceparent", &[("traceparent", caller)]).await.unwrap();
    assert!(seen.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && seen != caller, "{seen}");
    let seen = world.say("traceparent", &[("traceparent", "00-nonsense")]).await.unwrap();
    assert!(seen.starts_with("00-") && seen.len() == caller.len(), "{seen}");
}

#[tokio::test]
async fn a_taken_port_gets_one_clear_sentence() {
    let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = first.local_addr().unwrap();
    let error = bind(address).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("port {} on 127.0.0.1 is taken by another process", address.port())
    );
}

#[test]
fn seconds_may_have_a_fraction() {
    assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    assert_eq!(seconds("60"), Ok(Duration::from_mins(1)));
    for text in ["", "-1", "NaN", "1e400", "10s"] {
        assert!(seconds(text).is_err(), "{text}");
    }
}
