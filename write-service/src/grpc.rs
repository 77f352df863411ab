//! The command services: a request becomes a command, an outcome becomes an answer or a status.
//!
//! The way in, the same for every command: the server's layers (trace, deadline, size) → [`request`], which checks every
//! field and names each malformed one → `command_handler`: load, decide, append in one transaction → [`answer`].

mod answer;
mod catalog;
mod check;
mod in_order;
mod request;

use std::pin::Pin;

use futures_util::StreamExt as _;
use proto::reason::{self, Error, Reason};
use proto::v1::execute_commands_request::Command;
use proto::v1::execute_commands_response::Outcome;
use proto::v1::order_command_service_server::{OrderCommandService, OrderCommandServiceServer};
use proto::v1::{
    AddItemRequest, AddItemResponse, CancelOrderRequest, CancelOrderResponse, ChangeItemQuantityRequest,
    ChangeItemQuantityResponse, ConfirmOrderRequest, ConfirmOrderResponse, CreateOrderRequest,
    CreateOrderResponse, DeliverOrderRequest, DeliverOrderResponse, ExecuteCommandsRequest,
    ExecuteCommandsResponse, OrderReceipt, RemoveItemRequest, RemoveItemResponse, ShipOrderRequest,
    ShipOrderResponse, SubmitOrderRequest, SubmitOrderResponse,
};
use shared::clock::Clock;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub use self::catalog::Catalog;
use self::in_order::in_order;
use self::request::Caller;
use crate::admission::Admission;
use crate::command_handler::CommandHandler;

/// Commands of one `ExecuteCommands` call under way at a time; beyond it the call is read no further.
const WINDOW: usize = 1_024;

/// `orders.v1.OrderCommandService`.
#[derive(Clone)]
pub struct Commands {
    handler: CommandHandler,
    admission: Admission,
    clock: Clock,
    draining: CancellationToken,
}

impl Commands {
    /// The service over `handler`; streams end with `SHUTTING_DOWN` once `draining` begins.
    #[must_use]
    pub fn new(
        handler: CommandHandler,
        admission: Admission,
        clock: Clock,
        draining: CancellationToken,
    ) -> OrderCommandServiceServer<Self> {
        OrderCommandServiceServer::new(Self { handler, admission, clock, draining })
    }

    async fn unary<T>(
        &self,
        request: Request<T>,
        command: impl FnOnce(T) -> Command,
    ) -> Result<Option<OrderReceipt>, Status> {
        let (caller, request) = Caller::of(request);
        let command = command(request);
        let Some(_admitted) = self.admission.try_enter(command.encoded_len()) else {
            return Err(answer::overloaded());
        };
        self.execute(&caller, command).await.map(Some)
    }

    async fn execute(&self, caller: &Caller, command: Command) -> Result<OrderReceipt, Status> {
        let request = request::parse(caller, command, self.clock.now_nanos())?;
        let order_id = request.order_id;
        let outcome = self.handler.handle(request).await;
        outcome.map(answer::receipt).map_err(|error| answer::status(&order_id.to_string(), error))
    }
}

#[tonic::async_trait]
impl OrderCommandService for Commands {
    async fn create_order(
        &self,
        request: Request<CreateOrderRequest>,
    ) -> Result<Response<CreateOrderResponse>, Status> {
        let receipt = self.unary(request, Command::CreateOrder).await?;
        Ok(Response::new(CreateOrderResponse { receipt }))
    }

    async fn add_item(&self, request: Request<AddItemRequest>) -> Result<Response<AddItemResponse>, Status> {
        let receipt = self.unary(request, Command::AddItem).await?;
        Ok(Response::new(AddItemResponse { receipt }))
    }

    async fn change_item_quantity(
        &self,
        request: Request<ChangeItemQuantityRequest>,
    ) -> Result<Response<ChangeItemQuantityResponse>, Status> {
        let receipt = self.unary(request, Command::ChangeItemQuantity).await?;
        Ok(Response::new(ChangeItemQuantityResponse { receipt }))
    }

    async fn remove_item(
        &self,
        request: Request<RemoveItemRequest>,
    ) -> Result<Response<RemoveItemResponse>, Status> {
        let receipt = self.unary(request, Command::RemoveItem).await?;
        Ok(Response::new(RemoveItemResponse { receipt }))
    }

    async fn submit_order(
        &self,
        request: Request<SubmitOrderRequest>,
    ) -> Result<Response<SubmitOrderResponse>, Status> {
        let receipt = self.unary(request, Command::SubmitOrder).await?;
        Ok(Response::new(SubmitOrderResponse { receipt }))
    }

    async fn confirm_order(
        &self,
        request: Request<ConfirmOrderRequest>,
    ) -> Result<Response<ConfirmOrderResponse>, Status> {
        let receipt = self.unary(request, Command::ConfirmOrder).await?;
        Ok(Response::new(ConfirmOrderResponse { receipt }))
    }

    async fn ship_order(
        &self,
        request: Request<ShipOrderRequest>,
    ) -> Result<Response<ShipOrderResponse>, Status> {
        let receipt = self.unary(request, Command::ShipOrder).await?;
        Ok(Response::new(ShipOrderResponse { receipt }))
    }

    async fn deliver_order(
        &self,
        request: Request<DeliverOrderRequest>,
    ) -> Result<Response<DeliverOrderResponse>, Status> {
        let receipt = self.unary(request, Command::DeliverOrder).await?;
        Ok(Response::new(DeliverOrderResponse { receipt }))
    }

    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Result<Response<CancelOrderResponse>, Status> {
        let receipt = self.unary(request, Command::CancelOrder).await?;
        Ok(Response::new(CancelOrderResponse { receipt }))
    }

    type ExecuteCommandsStream = Pin<Box<dyn Stream<Item = Result<ExecuteCommandsResponse, Status>> + Send>>;

    async fn execute_commands(
        &self,
        request: Request<Streaming<ExecuteCommandsRequest>>,
    ) -> Result<Response<Self::ExecuteCommandsStream>, Status> {
        let (caller, requests) = Caller::of(request);
        let service = self.clone();
        let answers = in_order(
            requests.take_until(self.draining.clone().cancelled_owned()),
            WINDOW,
            |request| request.command.as_ref().map(request::order_of).unwrap_or_default(),
            move |request: ExecuteCommandsRequest| {
                let (service, caller) = (service.clone(), caller.clone());
                async move {
                    let outcome = match request.command {
                        Some(command) => {
                            let _admitted = service.admission.enter(command.encoded_len()).await;
                            service.execute(&caller, command).await
                        }
                        None => Err(Error::invalid("command", "is required").into()),
                    };
                    Ok(ExecuteCommandsResponse {
                        sequence: request.sequence,
                        outcome: Some(outcome_of(outcome)),
                    })
                }
            },
        );
        let draining = self.draining.clone();
        let farewell = futures_util::stream::once(async move {
            let stopping =
                Error::new(Reason::ShuttingDown, "the service is stopping; repeat what has no answer");
            draining.is_cancelled().then(|| Err(stopping.into()))
        });
        Ok(Response::new(Box::pin(answers.chain(farewell.filter_map(std::future::ready)))))
    }
}

fn outcome_of(result: Result<OrderReceipt, Status>) -> Outcome {
    match result {
        Ok(receipt) => Outcome::Receipt(receipt),
        Err(status) => Outcome::Error(reason::status_message(&status)),
    }
}
