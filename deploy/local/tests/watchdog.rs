//! No process stays behind: what a run has started ends with the process that it was started for.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use local::process::{Identity, Process};
use local::run::{Program, Run};
use nix::sys::signal::Signal;
use tokio::time::{interval, timeout};

const LIMIT: Duration = Duration::from_secs(30);

/// A process that lives until it is killed: the one that a run serves.
fn watched() -> (Child, Identity) {
    let child = Command::new("sleep").arg("600").spawn().expect("sleep starts");
    let identity = Identity::of(child.id()).expect("sleep runs");
    (child, identity)
}

fn program(folder: &Path, name: &'static str, script: &str) -> Program {
    Program {
        name,
        path: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: Vec::new(),
        log: folder.join(name),
        folder: folder.to_owned(),
        server: false,
        stage: 1,
        stop: Signal::SIGTERM,
    }
}

fn start(run: &Run, folder: &Path, name: &'static str, script: &str) -> Process {
    run.start(&program(folder, name, script)).expect("the program starts")
}

/// Waits until the condition holds.
async fn until(condition: impl Fn() -> bool) {
    let mut ticks = interval(Duration::from_millis(20));
    let holds = async {
        while !condition() {
            ticks.tick().await;
        }
    };
    timeout(LIMIT, holds).await.expect("the condition holds in time");
}

#[tokio::test]
async fn a_killed_run_ends_its_processes_and_their_children() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, identity) = watched();
    let run_folder = folder.path().join("run");
    let run = Run::open(&run_folder, identity).unwrap();
    let mut simple = start(&run, folder.path(), "simple", "exec sleep 600");
    // Tells the id of its own child.
    let mut parent = start(&run, folder.path(), "parent", "sleep 600 & echo $!; wait");
    until(|| std::fs::read_to_string(folder.path().join("parent")).is_ok_and(|text| text.ends_with('\n')))
        .await;
    let grandchild = std::fs::read_to_string(folder.path().join("parent")).unwrap().trim().parse().unwrap();
    let grandchild = Identity::of(grandchild).unwrap();

    child.kill().unwrap();
    child.wait().unwrap();

    timeout(LIMIT, async { (simple.crashed().await, parent.crashed().await) }).await.unwrap();
    until(|| !grandchild.alive() && !run_folder.exists()).await;
}

#[tokio::test]
async fn a_process_that_needs_time_to_end_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, identity) = watched();
    let run = Run::open(&folder.path().join("run"), identity).unwrap();
    let script = "trap 'sleep 1; echo ended in order; exit' TERM; echo ready; while :; do sleep 0.1; done";
    let mut slow = start(&run, folder.path(), "slow", script);
    let log = || std::fs::read_to_string(folder.path().join("slow")).unwrap();
    until(|| log().contains("ready")).await;
    child.kill().unwrap();
    child.wait().unwrap();
    timeout(LIMIT, slow.crashed()).await.unwrap();
    assert!(log().ends_with("ended in order\n"), "{}", log());
}

#[tokio::test]
async fn a_process_that_ignores_the_signal_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, identity) = watched();
    let run = Run::open(&folder.path().join("run"), identity).unwrap();
    let mut deaf = start(&run, folder.path(), "deaf", "trap '' TERM; echo ready; while :; do sleep 1; done");
    until(|| std::fs::read_to_string(folder.path().join("deaf")).is_ok_and(|text| text.contains("ready")))
        .await;
    child.kill().unwrap();
    child.wait().unwrap();
    timeout(LIMIT, deaf.crashed()).await.unwrap();
}

#[tokio::test]
async fn nothing_can_be_started_in_a_run_that_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, identity) = watched();
    let run_folder = folder.path().join("run");
    let run = Run::open(&run_folder, identity).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    until(|| !run_folder.exists()).await;
    let error = run.start(&program(folder.path(), "late", "exit 0")).unwrap_err();
    assert_eq!(error.to_string(), "cannot start late");
}

#[tokio::test]
async fn a_crash_is_one_sentence_with_the_end_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, identity) = watched();
    let run = Run::open(&folder.path().join("run"), identity).unwrap();
    let mut crashing = start(&run, folder.path(), "crashing", "echo no room on the disk; exit 7");
    let error = timeout(LIMIT, crashing.crashed()).await.unwrap().to_string();
    let log = folder.path().join("crashing");
    let expected = format!(
        "crashing ended unexpectedly (exit status: 7); the end of {}:\n  no room on the disk",
        log.display()
    );
    assert_eq!(error, expected);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_stop_that_takes_too_long_ends_in_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, identity) = watched();
    let run = Run::open(&folder.path().join("run"), identity).unwrap();
    let mut deaf = start(&run, folder.path(), "deaf", "trap '' TERM; echo ready; while :; do sleep 1; done");
    until(|| std::fs::read_to_string(folder.path().join("deaf")).is_ok_and(|text| text.contains("ready")))
        .await;
    let error = deaf.stop(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.to_string(), "deaf did not end within 100ms and was killed");
    child.kill().unwrap();
    child.wait().unwrap();
}
