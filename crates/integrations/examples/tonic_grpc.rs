//! gRPC on every core: tonic over the worker's listener as a stream of connections. The service is written by hand, so
//! that no protoc is needed.
//!
//! `cargo run -p everycore-integrations --example tonic_grpc [address] [workers]`

#[path = "tonic_grpc/whoami.rs"]
mod whoami;

use everycore::Worker;
use tonic::transport::Server;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    everycore_integrations::cluster("grpc")?.run_with(serve)?;
    Ok(())
}

async fn serve(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    let incoming = whoami::connections(worker.listener("grpc").await?);
    Server::builder()
        .add_service(whoami::Service { pid: worker.pid() })
        // HTTP/2 tells its clients to go elsewhere, and finishes what they have asked.
        .serve_with_incoming_shutdown(incoming, worker.draining())
        .await?;
    Ok(())
}
