//! `read-service projections` as a person runs it.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::rebuild::sales;
use super::{finished, program};
use crate::grpc::world::{World, id};
use crate::support::DEADLINE;

#[tokio::test]
async fn it_prints_a_table_for_people_and_json_for_programs() {
    let mut history = sales(3);
    history.unknown(&id(1));
    let world = World::of("projections-command", &history).await;
    world.orders_are(|orders| orders.parked_streams == 1).await;

    let (exit, stdout, stderr) = finished(&mut program(&world, "projections", &[])).await;
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
    let lines: Vec<_> = stdout.lines().collect();
    let [headings, orders, customers, products] = lines[..] else { panic!("{stdout}") };
    assert!(headings.starts_with("NAME ") && headings.ends_with("LAST ERROR"), "{stdout}");
    let head = history.head().to_string();
    let index = format!("{}orders-v1-1", world.prefix);
    let cells: Vec<_> = orders.split_whitespace().collect();
    assert_eq!(cells, ["orders", "live", "3", &head, &head, "0.0", "s", "1", &index], "{stdout}");
    assert!(customers.starts_with("customers ") && products.starts_with("products "), "{stdout}");
    let at = headings.find("INDEX").unwrap();
    assert!(lines[1..].iter().all(|line| line[at..].starts_with(&world.prefix)), "{stdout}");

    let (exit, stdout, _) = finished(&mut program(&world, "projections", &["--output", "json"])).await;
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(exit, Some(0));
    assert_eq!((&told[0]["name"], &told[0]["state"]), (&"orders".into(), &"LIVE".into()), "{told}");
    assert_eq!(told.as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn watching_goes_on_until_it_is_left() {
    let world = World::of("projections-watch", &sales(1)).await;
    let mut command = program(&world, "projections", &["--watch", "--output", "json"]);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = timeout(DEADLINE, lines.next_line()).await.expect("a line in time").unwrap().unwrap();
        assert!(line.starts_with(r#"[{"name":"orders","state":"#), "{line}");
    }
    let process = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &process]).status().await.unwrap().success());
    let status = timeout(DEADLINE, child.wait()).await.expect("it ends in time").unwrap();
    assert_eq!(status.code(), Some(130));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_an_error_with_a_code() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_read-service"));
    command.args(["projections", "--connect", "http://127.0.0.1:1"]).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (exit, stdout, stderr) = finished(&mut command).await;
    assert_eq!((exit, stdout.as_str()), (Some(64 + 14), ""), "{stderr}");
    assert!(stderr.starts_with("Unavailable: "), "{stderr}");
}
