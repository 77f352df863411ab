use std::time::Duration;

use tokio::sync::oneshot;

use super::*;

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn draining_lets_work_under_way_finish() {
    let lifecycle = Lifecycle::new(LONG);
    let (finished, seen) = oneshot::channel();
    let draining = lifecycle.draining();
    lifecycle.spawn("worker", async move {
        draining.cancelled().await;
        tokio::task::yield_now().await;
        finished.send(()).ok();
        Ok(())
    });
    lifecycle.drain();
    lifecycle.stopped().await;
    assert!(seen.await.is_ok());
    assert!(!lifecycle.failed());
}

#[tokio::test]
async fn a_failed_task_drains_the_others_and_fails_the_exit_code() {
    let lifecycle = Lifecycle::new(LONG);
    let draining = lifecycle.draining();
    lifecycle.spawn("server", async move {
        draining.cancelled().await;
        Ok(())
    });
    lifecycle.spawn("loop", async { anyhow::bail!("broken") });
    assert_eq!(lifecycle.run().await, ExitCode::FAILURE);
}

#[tokio::test]
async fn a_panic_counts_as_failure() {
    let lifecycle = Lifecycle::new(LONG);
    lifecycle.spawn("loop", async { panic!("expected by the test") });
    lifecycle.stopped().await;
    assert!(lifecycle.failed());
    assert!(lifecycle.draining().is_cancelled());
}

#[tokio::test]
async fn the_drain_limit_drops_what_does_not_end() {
    let lifecycle = Lifecycle::new(Duration::from_millis(20));
    lifecycle.spawn("stubborn", std::future::pending());
    let began = tokio::time::Instant::now();
    lifecycle.drain();
    lifecycle.stopped().await;
    assert!(began.elapsed() >= Duration::from_millis(20));
    assert!(lifecycle.failed());
    assert!(lifecycle.aborting().is_cancelled());
}

#[tokio::test]
async fn aborting_drains_too_and_drops_at_once() {
    let lifecycle = Lifecycle::new(LONG);
    lifecycle.spawn("stubborn", std::future::pending());
    lifecycle.abort();
    assert!(lifecycle.draining().is_cancelled());
    lifecycle.stopped().await;
    assert!(lifecycle.failed());
}

#[tokio::test]
async fn an_attendant_outlives_the_tasks_and_then_goes() {
    let lifecycle = Lifecycle::new(LONG);
    let (held, gone) = oneshot::channel::<()>();
    lifecycle.attend("probes", async move {
        let _held = held;
        std::future::pending().await
    });
    let (finish, finished) = oneshot::channel::<()>();
    lifecycle.spawn("worker", async move { Ok(finished.await?) });
    lifecycle.drain();
    let mut gone = gone;
    assert!(gone.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
    finish.send(()).unwrap();
    lifecycle.stopped().await;
    assert_eq!(gone.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    assert!(!lifecycle.failed());
}

#[tokio::test]
async fn nothing_to_run_is_a_success() {
    assert_eq!(Lifecycle::new(LONG).run().await, ExitCode::SUCCESS);
}
