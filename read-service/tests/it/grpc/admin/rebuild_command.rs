//! `read-service rebuild` as a person runs it.

use proto::v1::rebuild::State;
use proto::v1::{CancelRebuildRequest, GetRebuildRequest};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::rebuild::sales;
use super::{finished, program};
use crate::grpc::world::World;
use crate::support::DEADLINE;

fn command(world: &World, arguments: &[&str]) -> Command {
    program(world, "rebuild", arguments)
}

async fn run(world: &World, arguments: &[&str]) -> (Option<i32>, String, String) {
    finished(&mut command(world, arguments)).await
}

#[tokio::test]
async fn it_follows_a_rebuild_to_its_end_and_exits_with_the_outcome() {
    let world = World::of("rebuild-command", &sales(20)).await;

    let (exit, stdout, stderr) = run(&world, &["orders", "--watch"]).await;
    assert_eq!(exit, Some(0), "{stdout}{stderr}");
    let answered = format!("succeeded: queries are answered by {}orders-v1-2", world.prefix);
    assert!(stdout.contains(&answered), "{stdout}");
    assert!(stdout.contains("20 documents expected, 20 found, 20 compared, 0 different"), "{stdout}");
    // No terminal: plain lines.
    assert!(stderr.lines().count() >= 1 && !stderr.contains('\u{1b}'), "{stderr}");

    let (exit, stdout, stderr) = run(&world, &["invoices"]).await;
    assert_eq!((exit, stdout.as_str()), (Some(64 + 3), ""), "{stderr}");
    assert!(stderr.starts_with("InvalidArgument: "), "{stderr}");
}

#[tokio::test]
async fn leaving_does_not_stop_the_rebuild() {
    let world = World::of("rebuild-left", &sales(20)).await;

    let arguments = ["orders", "--watch", "--max-streams-per-second", "1"];
    let mut child = command(&world, &arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = timeout(DEADLINE, lines.next_line()).await.expect("a line in time").unwrap().unwrap();
    assert!(first.contains(" of "), "{first}");
    let process = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &process]).status().await.unwrap().success());
    let status = timeout(DEADLINE, child.wait()).await.expect("it ends in time").unwrap();
    assert_eq!(status.code(), Some(130));
    let mut last = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        last = line;
    }
    let again = "the rebuild goes on; to follow it again: read-service rebuild orders --watch --request-id ";
    let request_id = last.strip_prefix(again).expect(&last);

    // The same request is the same rebuild, which is under way.
    let (exit, stdout, stderr) = run(&world, &["orders", "--request-id", request_id]).await;
    assert_eq!(exit, Some(0), "{stderr}");
    let rebuild_id = stdout.split_whitespace().nth(1).unwrap().to_owned();
    let request = GetRebuildRequest { rebuild_id: rebuild_id.clone() };
    let now = world.admin().get_rebuild(request).await.unwrap().into_inner().rebuild.unwrap();
    assert_eq!(now.state(), State::Scanning, "{now:?}");
    world.admin().cancel_rebuild(CancelRebuildRequest { rebuild_id }).await.unwrap();
}
