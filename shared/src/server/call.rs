//! What surrounds every call: span, metric and deadline on its way in, its status on the way out.
//!
//! A request enters; its response leaves unchanged except that a passed deadline ends it with `DEADLINE_EXCEEDED`, in the head
//! or in the trailers, that a panic ends it with the contract's words for a bug, and that refusals of too large messages carry the
//! contract's words too. The work is dropped at that moment.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::StatusTexts;
use super::deadline::Deadline;
use super::methods::Methods;
use super::observed::Observed;
use super::oversize;

/// Wraps the routes of a server.
#[derive(Clone, Debug)]
pub(super) struct CallLayer {
    methods: Arc<Methods>,
    limit: Duration,
    texts: StatusTexts,
    draining: CancellationToken,
}

impl CallLayer {
    pub(super) fn new(
        methods: Arc<Methods>,
        limit: Duration,
        texts: StatusTexts,
        draining: CancellationToken,
    ) -> Self {
        Self { methods, limit, texts, draining }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallService { inner, layer: self.clone() }
    }
}

/// See [`CallLayer`].
#[derive(Clone, Debug)]
pub(super) struct CallService<S> {
    inner: S,
    layer: CallLayer,
}

impl<S, Out> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Out>>,
    Out: HttpBody<Data = Bytes>,
{
    type Response = Response<CallBody<Out>>;
    type Error = S::Error;
    type Future = CallFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = self.layer.methods.get(request.uri().path());
        let deadline = Deadline::of(method, request.headers(), self.layer.limit);
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        let mut drained = None;
        if method.dispensable {
            let draining = || Box::pin(self.layer.draining.clone().cancelled_owned());
            request = request.map(|body| Body::new(Cut { body, drained: draining() }));
            drained = Some(draining());
        }
        let observed = Observed::begin(Arc::clone(method), request.headers());
        let work = observed.span().in_scope(|| self.inner.call(request));
        let until = Until { deadline, timer: None, drained };
        CallFuture { work, call: Some(Call { observed, until, texts: self.layer.texts }) }
    }
}

/// What a call carries from its head to its body.
struct Call {
    observed: Observed,
    until: Until,
    texts: StatusTexts,
}

/// What ends a call from outside.
struct Until {
    deadline: Option<Deadline>,
    /// Set only when the work is not done at once.
    timer: Option<Pin<Box<Sleep>>>,
    drained: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Until {
    /// Whether the deadline has passed; the clock is asked too, as tonic's own timer may have woken the task first.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        if deadline.has_passed() {
            return Poll::Ready(());
        }
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.at()))).as_mut().poll(cx)
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.drained.as_mut().map_or(Poll::Pending, |drained| drained.as_mut().poll(cx))
    }
}

pin_project! {
    /// The head of a response to come.
    pub(super) struct CallFuture<F> {
        #[pin]
        work: F,
        call: Option<Call>,
    }
}

impl<F, Out, E> Future for CallFuture<F>
where
    F: Future<Output = Result<Response<Out>, E>>,
{
    type Output = Result<Response<CallBody<Out>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let call = this.call.as_mut().expect("not polled after its end");
        let response = match unpanicked(&call.observed, || this.work.poll(cx)) {
            Err(Panicked) => {
                let status = (call.texts.bug)();
                call.observed.end(status.code());
                status.into_http()
            }
            Ok(Poll::Ready(Ok(mut response))) => {
                oversize::rewrite(response.headers_mut(), call.texts.too_large);
                if let Some(code) = code_of(response.headers()) {
                    call.observed.end(code);
                }
                response.map(Some)
            }
            Ok(Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
            Ok(Poll::Pending) => {
                ready!(call.until.poll_deadline(cx));
                let status = (call.texts.deadline)();
                call.observed.end(status.code());
                status.into_http()
            }
        };
        let call = this.call.take();
        Poll::Ready(Ok(response.map(|body| CallBody { body, call })))
    }
}

pin_project! {
    /// The body of a response; none where the head says all.
    pub(super) struct CallBody<B> {
        #[pin]
        body: Option<B>,
        call: Option<Call>,
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for CallBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let Some(call) = this.call else {
            return body.poll_frame(cx);
        };
        let status = match unpanicked(&call.observed, || body.poll_frame(cx)) {
            Ok(Poll::Ready(Some(Ok(mut frame)))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    oversize::rewrite(trailers, call.texts.too_large);
                    call.observed.end(code_of(trailers).unwrap_or(Code::Unknown));
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Ok(Poll::Ready(ended)) => return Poll::Ready(ended),
            Ok(Poll::Pending) if call.until.poll_deadline(cx).is_ready() => (call.texts.deadline)(),
            Ok(Poll::Pending) => {
                ready!(call.until.poll_drained(cx));
                Status::new(Code::Ok, "")
            }
            Err(Panicked) => (call.texts.bug)(),
        };
        call.observed.end(status.code());
        this.body.set(None);
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

/// The requests of a call that may be ended when draining begins: whoever still reads them must let go too.
struct Cut {
    body: Body,
    drained: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.drained.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

/// The work of a call panicked; the hook of the process has told the log.
struct Panicked;

/// Works on a call within its span. What panicked must not be polled again: whoever calls answers for it and drops it.
fn unpanicked<T>(observed: &Observed, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    observed.span().in_scope(|| catch_unwind(AssertUnwindSafe(work))).map_err(|_| Panicked)
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, (status.code() as i32).into());
    }
    trailers
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}
