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

const FEED: &str = "orders/v1/order_feed_service.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=orders");
    println!("cargo::rerun-if-changed=google");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut feed = descriptors.clone();
    feed.file.retain(|file| file.name() == FEED);
    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    // The feed's server once more, with answers that are bytes already: see `src/encoded.rs`.
    let encoded = out.join("encoded");
    std::fs::create_dir_all(&encoded)?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".orders.v1.SubscribeResponse", "crate::encoded::Encoded")
        .extern_path(".orders.v1.ScanResponse", "crate::encoded::Encoded")
        .extern_path(".orders.v1", "crate::v1")
        .out_dir(encoded)
        .compile_fds(feed)?;
    Ok(())
}
