//! Runs the items of a stream side by side, those with the same key one after the other.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tonic::Status;

/// Applies `run` to each item. Items with equal keys run in the order they came, others side by side, at most `window`
/// under way or waiting at a time; results come as they are ready. The first error of `items` ends the stream, after the
/// results of what came before it.
pub(super) fn in_order<T, K, R, F>(
    items: impl Stream<Item = Result<T, Status>> + Send,
    window: usize,
    key_of: impl Fn(&T) -> K + Send,
    run: impl Fn(T) -> F + Send + Sync,
) -> impl Stream<Item = Result<R, Status>> + Send
where
    T: Send,
    K: Hash + Eq + Clone + Send,
    R: Send,
    F: Future<Output = Result<R, Status>> + Send,
{
    async_stream::stream! {
        let mut items = std::pin::pin!(items.fuse());
        let mut running = FuturesUnordered::new();
        // A key is here while an item of it runs; its queue holds those that wait for it.
        let mut queues: HashMap<K, VecDeque<T>> = HashMap::new();
        let mut under_way = 0;
        let mut open = true;
        let mut broken = None;
        let start = |key: K, item: T| run(item).map(move |result| (key, result));
        loop {
            tokio::select! {
                biased;
                Some((key, result)) = running.next() => {
                    under_way -= 1;
                    match queues.get_mut(&key).and_then(VecDeque::pop_front) {
                        Some(next) => running.push(start(key, next)),
                        None => {
                            queues.remove(&key);
                        }
                    }
                    yield result;
                }
                next = items.next(), if open && under_way < window => match next {
                    Some(Ok(item)) => {
                        under_way += 1;
                        let key = key_of(&item);
                        if let Some(queue) = queues.get_mut(&key) {
                            queue.push_back(item);
                        } else {
                            queues.insert(key.clone(), VecDeque::new());
                            running.push(start(key, item));
                        }
                    }
                    Some(Err(status)) => {
                        open = false;
                        broken = Some(status);
                    }
                    None => open = false,
                },
                else => break,
            }
        }
        if let Some(status) = broken {
            yield Err(status);
        }
    }
}
