//! Traces against a real receiver of OTLP over gRPC; a process of its own, as telemetry is installed once.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use shared::server::bind;
use shared::telemetry::{self, TelemetryConfig, trace};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Receiver(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).ok();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_process_sends_the_last_spans() {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut received) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Receiver(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let config = TelemetryConfig { otlp_endpoint: Some(endpoint), ..TelemetryConfig::default() };
    let telemetry = telemetry::init("test-service", &config).unwrap();
    let again = telemetry::init("test-service", &TelemetryConfig::default()).unwrap_err();
    assert_eq!(again.to_string(), "telemetry is installed already");
    let span = tracing::info_span!("projected", batch.events = 3);
    trace::link(&span, CALLER);
    let handed_on = span.in_scope(trace::current_traceparent);
    drop(span);
    telemetry.shutdown();

    let request = tokio::time::timeout(Duration::from_secs(20), received.recv()).await.unwrap().unwrap();
    let resource = request.resource_spans[0].resource.clone().unwrap();
    let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    assert!(format!("{name:?}").contains("test-service"), "{name:?}");
    let sent = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(sent.name, "projected");
    assert_eq!(sent.links[0].span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    assert_eq!(handed_on.len(), CALLER.len());
}
