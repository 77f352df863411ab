//! A store full of events, and the documents that they become.

use std::collections::HashMap;

use anyhow::Context as _;
use proto::v1::execute_commands_request::Command;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::subscribe_response::Message;
use proto::v1::{AddItemRequest, GetHeadRequest, StreamCategory, SubscribeRequest};
use read_service::index::{Bulk, SealedBulk};
use read_service::projection::{OrderDocument, Orders, Projection as _, apply};
use rig::orders::{self, Shape};
use rig::pair::Pair;
use uuid::Uuid;

/// Bytes of a bulk of the floor.
const BULK: usize = 1024 * 1024;
/// Events of an order where each event becomes a document, and orders that are changed in turns: more than lie between two
/// events of one order where documents are not to be coalesced, fewer than where they may be.
const EVENTS: usize = 6;
const IN_TURNS: usize = 4_096;

/// What the backlog holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Orders changed event by event, many others in between: each event makes a document.
    Versions,
    /// Small orders, each stored by one command.
    Small,
    /// Real orders, each stored by one command; a fifth as many.
    Real,
}

/// A write service whose feed is full.
pub struct Backlog {
    pair: Pair,
    /// The documents in the order of the feed, in bulks.
    pub documents: Vec<SealedBulk>,
    /// Position of the last event.
    pub head: i64,
}

impl Backlog {
    /// Stores what becomes about so many documents, and captures them.
    pub async fn make(kind: Kind, documents: usize) -> anyhow::Result<Self> {
        let pair = Pair::start().await?;
        let sample = orders::Orders::register(&pair).await?;
        match kind {
            Kind::Small => sample.place(&pair, documents, Shape::Small).await.map(drop)?,
            Kind::Real => sample.place(&pair, documents / 5, Shape::Real).await.map(drop)?,
            Kind::Versions => {
                let item = sample.command(0, Shape::Small).items.swap_remove(0);
                let numbers: Vec<_> = (0..documents / EVENTS).collect();
                for numbers in numbers.chunks(IN_TURNS) {
                    let open = numbers.iter().map(|number| {
                        let mut request = sample.command(*number, Shape::Small);
                        request.items.clear();
                        request.submit = false;
                        Command::CreateOrder(request)
                    });
                    let ids = orders::execute(&pair, open).await?;
                    let added = (1..EVENTS).flat_map(|_| &ids).map(|id| {
                        let (order_id, request_id) = (id.clone(), Uuid::now_v7().to_string());
                        let item = Some(item.clone());
                        Command::AddItem(AddItemRequest {
                            order_id,
                            request_id,
                            expected_version: None,
                            item,
                        })
                    });
                    orders::execute(&pair, added).await.map(drop)?;
                }
            }
        }
        let (documents, head) = capture(&pair, kind).await?;
        Ok(Self { pair, documents, head })
    }

    /// Where its feed is.
    pub fn feed_url(&self) -> String {
        self.pair.url()
    }

    /// Number of documents.
    pub fn count(&self) -> usize {
        self.documents.iter().map(SealedBulk::len).sum()
    }

    /// What it consists of.
    pub fn note(&self, name: &str) -> String {
        let bytes: usize = self.documents.iter().map(SealedBulk::bytes).sum();
        let (count, head) = (self.count(), self.head);
        format!("{name}: {head} events become {count} documents of {} bytes on average", bytes / count.max(1))
    }

    /// Stops the write service.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.pair.stop().await
    }
}

/// Reads the feed and folds it: each version of a document, or only the last where an order was stored at once.
async fn capture(pair: &Pair, kind: Kind) -> anyhow::Result<(Vec<SealedBulk>, i64)> {
    let mut feed = OrderFeedServiceClient::new(pair.connect().await?).max_decoding_message_size(64 << 20);
    let head = loop {
        let head = feed.get_head(GetHeadRequest {}).await?.into_inner();
        if head.outbox_backlog == 0 {
            break head.head_position;
        }
    };
    let request = SubscribeRequest { categories: vec![StreamCategory::Order.into()], ..Default::default() };
    let mut answers = feed.subscribe(request).await?.into_inner();
    let mut folded: HashMap<String, Option<OrderDocument>> = HashMap::new();
    let mut last: Option<String> = None;
    let (mut bulks, mut open) = (Vec::new(), Bulk::default());
    let mut add = |document: &OrderDocument, key: &str| {
        open.index(key, Orders::version(document), document, &Orders::search(document));
        if open.bytes() >= BULK {
            bulks.push(std::mem::take(&mut open).seal());
        }
    };
    let mut through = 0;
    while through < head {
        let answer = answers.message().await?.context("a subscription has no end")?;
        let Some(Message::Batch(batch)) = answer.message else { continue };
        for event in &batch.events {
            let key = event.stream_key.as_str();
            if kind != Kind::Versions && last.as_deref() != Some(key) {
                if let Some(Some(document)) = last.as_ref().and_then(|last| folded.remove(last)) {
                    add(&document, last.as_deref().unwrap_or_default());
                }
                last = Some(key.to_owned());
            }
            let document = folded.entry(key.to_owned()).or_default();
            apply::<Orders>(document, event)?;
            if let (Kind::Versions, Some(document)) = (kind, document) {
                add(document, key);
            }
        }
        through = batch.through_position;
    }
    if let Some(Some(document)) = last.as_ref().and_then(|last| folded.remove(last)) {
        add(&document, last.as_deref().unwrap_or_default());
    }
    if !open.is_empty() {
        bulks.push(open.seal());
    }
    Ok((bulks, head))
}
