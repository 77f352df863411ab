//! The commands that are sent: orders that live for ten commands, some thousands of them at a time, or orders placed whole.

use proto::v1::execute_commands_request::Command;
use proto::v1::{AddItemRequest, CreateOrderRequest, Money, NewItem, SubmitOrderRequest};
use uuid::Uuid;

use rig::appends::{LIFE, ORDERS};

/// Who orders.
pub const CUSTOMER: &str = "17850";
/// What is ordered.
pub const PRODUCTS: [&str; 4] = ["85123A", "71053", "84406B", "84029G"];

/// What kind of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One event each: an order is created, filled and submitted by ten commands.
    Life,
    /// Four events each: an order is created with two items and submitted.
    Order,
}

/// Makes commands; each names an order that nobody has named for some thousand commands.
pub struct Load {
    shape: Shape,
    orders: Vec<(String, i64)>,
    next: usize,
}

impl Load {
    /// Commands of this shape, over one of so many equal parts of the open orders.
    pub fn new(shape: Shape, parts: usize) -> Self {
        Self { shape, orders: vec![(String::new(), LIFE); ORDERS / parts], next: 0 }
    }

    /// The next command.
    pub fn next(&mut self) -> Command {
        if self.shape == Shape::Order {
            let items = vec![item(0), item(1)];
            return Command::CreateOrder(CreateOrderRequest { items, submit: true, ..create(id()) });
        }
        self.next = (self.next + 1) % self.orders.len();
        let (order_id, version) = &mut self.orders[self.next];
        if *version == LIFE {
            *order_id = id();
            *version = 0;
        }
        *version += 1;
        let (order_id, request_id) = (order_id.clone(), id());
        match *version {
            1 => Command::CreateOrder(create(order_id)),
            LIFE => Command::SubmitOrder(SubmitOrderRequest { order_id, request_id, expected_version: None }),
            version => {
                let item = Some(item(usize::try_from(version).unwrap_or(0)));
                Command::AddItem(AddItemRequest { order_id, request_id, expected_version: None, item })
            }
        }
    }
}

fn id() -> String {
    Uuid::now_v7().to_string()
}

fn create(order_id: String) -> CreateOrderRequest {
    CreateOrderRequest {
        order_id,
        request_id: id(),
        customer_id: CUSTOMER.into(),
        currency_code: "GBP".into(),
        reference: "536365".into(),
        delivery_country: "United Kingdom".into(),
        ..CreateOrderRequest::default()
    }
}

fn item(number: usize) -> NewItem {
    NewItem {
        product_id: PRODUCTS[number % PRODUCTS.len()].into(),
        quantity: 6,
        unit_price: Some(Money { currency_code: "GBP".into(), minor_units: 255 }),
    }
}
