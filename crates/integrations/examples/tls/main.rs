//! TLS on every core: a session begun with one worker resumes with any other, through rotations and reloads.
//!
//! Each answer says who gave it and what kind of handshake came before.
//!
//! `cargo run -p everycore-integrations --example tls [address] [workers]`, then
//! `curl -k https://127.0.0.1:8000 https://127.0.0.1:8000 -H 'connection: close'`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

mod identity;

use std::sync::Arc;
use std::time::Duration;

use everycore::tls::Ticketer;
use everycore::{Stream, Worker};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// How long a client may take for its handshake and its request.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = everycore_integrations::cluster("https")?
        .on_event(identity::answer(|_, event| everycore_integrations::announce(&event)));
    cluster.run_with(serve)?;
    Ok(())
}

async fn serve(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    let acceptor = TlsAcceptor::from(Arc::new(config(&worker).await?));
    let mut listener = worker.listener("https").await?;
    while let Ok((stream, _)) = listener.accept().await {
        let (worker, acceptor) = (worker.clone(), acceptor.clone());
        tokio::spawn(async move {
            // A client that breaks off, or takes too long, is no failure of ours.
            let _ = tokio::time::timeout(PATIENCE, converse(&worker, &acceptor, stream)).await;
        });
    }
    Ok(())
}

async fn config(worker: &Worker) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let (certificate, key): identity::Identity =
        worker.request(identity::QUESTION, PATIENCE).await?.parse()?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], PrivatePkcs8KeyDer::from(key).into())?;
    // The one line that makes sessions the cluster's instead of this worker's.
    config.ticketer = Arc::new(Ticketer::new(worker.secrets().await?));
    Ok(config)
}

/// One request, one answer.
async fn converse(worker: &Worker, acceptor: &TlsAcceptor, stream: Stream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut request = Vec::new();
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if request.len() > 16 << 10 || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let handshake = match stream.get_ref().1.handshake_kind() {
        Some(rustls::HandshakeKind::Resumed) => "resumed",
        _ => "full",
    };
    let body = format!("{} {handshake}\n", worker.pid());
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
