//! The admin service as operators meet it.

mod projections;
mod projections_command;
mod rebuild;
mod rebuild_command;
mod parked;
mod audit;
mod repairs;
mod background;

use std::process::{Output, Stdio};
use std::time::Duration;

use proto::v1::projection_admin_service_client::ProjectionAdminServiceClient;
use proto::v1::{ListProjectionsRequest, Projection};
use tokio::process::Command;
use tokio::time::{interval, timeout};
use tonic::transport::Channel;

use super::world::World;
use crate::support::DEADLINE;

/// Within this time an answer tells the truth, whatever happened before.
const TRUTH: Duration = Duration::from_secs(5);

impl World {
    pub fn admin(&self) -> ProjectionAdminServiceClient<Channel> {
        ProjectionAdminServiceClient::new(self.channel.clone())
    }

    /// The projection of orders, as the service tells it.
    pub async fn orders(&self) -> Projection {
        let answer = self.admin().list_projections(ListProjectionsRequest {}).await.unwrap().into_inner();
        let names: Vec<_> = answer.projections.iter().map(|projection| projection.name.as_str()).collect();
        assert_eq!(names, ["orders", "customers", "products"]);
        answer.projections.into_iter().next().unwrap()
    }

    /// The projection of orders, told in time to be like this.
    pub async fn orders_are(&self, like_this: impl Fn(&Projection) -> bool) -> Projection {
        let mut last = Projection::default();
        let told = async {
            let mut tick = interval(Duration::from_millis(50));
            loop {
                tick.tick().await;
                last = self.orders().await;
                if like_this(&last) {
                    break;
                }
            }
        };
        let in_time = timeout(TRUTH, told).await;
        assert!(in_time.is_ok(), "told otherwise: {last:?}");
        last
    }
}

/// A command of the program that asks this service.
fn program(world: &World, command: &str, arguments: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_read-service"));
    program.args([command, "--connect", &world.url]).args(arguments).kill_on_drop(true);
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    program
}

/// Exit code, standard output and standard error of a program that ends.
async fn finished(program: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        timeout(DEADLINE, program.output()).await.expect("it ends in time").unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}
