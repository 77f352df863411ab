//! The importer: a CSV file in the Online Retail form goes in, registered names and submitted orders come out.
//!
//! - [`source`]: the file, row by row, with line numbers.
//! - [`row`]: what a row says, whether it is clean.
//! - [`survey`]: the first pass: who and what is named, what belongs to which invoice.
//! - [`order`]: the second pass: one command per invoice, under a `request_id` that follows from the invoice.
//! - [`sending`]: the commands' way to the write service, over lost connections.
//! - [`summary`]: what became of it all.
//!
//! An import can be cut off anywhere and repeated: what is stored already is answered from the store.

pub mod source;
pub mod row;
pub mod survey;
pub mod order;
pub mod sending;
pub mod summary;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::sending::Sender;
use self::summary::Summary;
use self::survey::Survey;
use crate::screen::Screen;

/// Orders read ahead of those on their way.
const READ_AHEAD: usize = 64;

/// Imports `file` into the write service at `to`, until done or `interrupted`; a summary says which.
///
/// # Errors
/// Where the file cannot be read or is of another form, or the write service stays away.
pub async fn run(
    file: &Path,
    to: &str,
    screen: &Screen,
    interrupted: &CancellationToken,
) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let begun = Instant::now();
    let outcome = interrupted.run_until_cancelled(import(file, to, screen, &mut summary)).await;
    summary.elapsed = begun.elapsed();
    match outcome {
        Some(Ok(())) => Ok(summary),
        Some(Err(error)) if summary.answered() > 0 => {
            let progress = summary.progress();
            Err(error.context(format!(
                "import stopped, {progress}; repeat it: what is stored is not stored twice"
            )))
        }
        Some(Err(error)) => Err(error),
        None => {
            summary.interrupted = true;
            Ok(summary)
        }
    }
}

async fn import(file: &Path, to: &str, screen: &Screen, summary: &mut Summary) -> anyhow::Result<()> {
    let mut sender = Sender::new(to, screen)?;
    let step = screen.step("file");
    step.report(format_args!("reading {}", file.display()));
    let path = file.to_owned();
    let survey =
        tokio::task::spawn_blocking(move || Survey::of(&path)).await.context("the reader ended")??;
    step.done(format_args!(
        "{} orders, {} lines in {} rows",
        survey.invoices.len(),
        survey.lines,
        survey.rows
    ));
    for (line, problem) in &survey.malformed_examples {
        screen.line(format_args!("line {line} skipped: {problem}"));
    }
    summary.describe(&survey);

    summary.catalog = sender.register(&survey).await?;

    let survey = Arc::new(survey);
    summary.stream_begun = Some(Instant::now());
    let (orders, receiver) = mpsc::channel(READ_AHEAD);
    let (path, of) = (file.to_owned(), Arc::clone(&survey));
    let reader = tokio::task::spawn_blocking(move || {
        order::read(&path, &of, |order| orders.blocking_send(order).is_ok())
    });
    sender.send(survey.invoices.len(), receiver, summary).await?;
    reader.await.context("the reader ended")?
}
