//! Compiles the contract without `protoc`, and keeps the descriptor set for reflection.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 7] = [
    "orders/v1/order.proto",
    "orders/v1/order_events.proto",
    "orders/v1/order_command_service.proto",
    "orders/v1/catalog_command_service.proto",
    "orders/v1/order_feed_service.proto",
    "orders/v1/order_query_service.proto",
    "orders/v1/projection_admin_service.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=orders");
    println!("cargo::rerun-if-changed=google");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}
