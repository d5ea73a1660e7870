//! TLS sessions that outlive the worker they began with: across workers, rotations, reloads and deaths.
//!
//! The primary runs in this process, the workers are the example.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../examples/tls/identity.rs"]
#[allow(dead_code, reason = "the worker's half stays unused here")]
mod identity;
#[path = "../../everycore/tests/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use everycore::{Cluster, Event, Policy, Running, Urgency};
use everycore_sys::signals::number::KILL;
use rustls::HandshakeKind::{Full, Resumed};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup, SignatureScheme,
    SupportedProtocolVersion,
};
use support::{PATIENCE, example, signal_pid};

/// More old sessions than are used up before every worker has heard of a rotation: it is told before the next
/// connection is handed to it.
const OLD: usize = 30;

struct Server {
    running: Option<Running>,
    address: SocketAddr,
    events: Receiver<Event>,
}

impl Server {
    fn start() -> Self {
        let (sender, events) = channel();
        let running = Cluster::builder()
            .workers(2)
            .exec(example("tls"))
            .args(["127.0.0.1:0"])
            .policy(Policy::RoundRobin)
            .signals(false)
            .bind("https", "127.0.0.1:0")
            .unwrap()
            .on_event(identity::answer(move |_, event| drop(sender.send(event))))
            .start()
            .unwrap();
        let address = running.address("https").unwrap().tcp().unwrap();
        let server = Self { running: Some(running), address, events };
        (0..2).for_each(|_| server.wait(|event| matches!(event, Event::Listening { .. })));
        server
    }

    fn wait(&self, is_it: impl Fn(&Event) -> bool) {
        while !is_it(&self.events.recv_timeout(PATIENCE).expect("an event in time")) {}
    }

    fn primary(&self) -> &everycore::Primary {
        self.running.as_ref().unwrap().primary()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.primary().stop(Urgency::Fast);
            let _ = running.wait();
        }
    }
}

/// A client with a memory of its own.
struct Client {
    config: Arc<ClientConfig>,
    server: SocketAddr,
}

impl Client {
    fn new(server: &Server, version: &'static SupportedProtocolVersion) -> Self {
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::store(Arc::new(Tickets::default()));
        Self { config: Arc::new(config), server: server.address }
    }

    /// A client that has visited once, and the worker it visited.
    fn acquainted(server: &Server, version: &'static SupportedProtocolVersion) -> (Self, u32) {
        let client = Self::new(server, version);
        let (pid, kind) = client.visit();
        assert_eq!(kind, Full, "a first visit");
        (client, pid)
    }

    /// Which worker answers, and after what kind of handshake; both ends agree on that.
    fn visit(&self) -> (u32, HandshakeKind) {
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        let socket = TcpStream::connect(self.server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = rustls::StreamOwned::new(tls, socket);
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (pid, handshake) = answer.rsplit("\r\n\r\n").next().unwrap().trim().split_once(' ').unwrap();
        let kind = stream.conn.handshake_kind().unwrap();
        assert_eq!(handshake, if kind == Resumed { "resumed" } else { "full" });
        (pid.parse().unwrap(), kind)
    }
}

fn resumes_everywhere_until_two_rotations_later(version: &'static SupportedProtocolVersion) {
    let server = Server::start();

    let (client, first) = Client::acquainted(&server, version);
    let others: Vec<u32> = (0..10)
        .map(|_| {
            let (pid, kind) = client.visit();
            assert_eq!(kind, Resumed);
            pid
        })
        .filter(|pid| *pid != first)
        .collect();
    assert!(!others.is_empty(), "ten connections in turn reach both workers");

    let mut old: Vec<Client> = (0..OLD).map(|_| Client::acquainted(&server, version).0).collect();
    let mut visit_as_old = || old.pop().expect("fewer old sessions are enough").visit();

    server.primary().rotate_secrets().unwrap();
    (0..4).for_each(|_| assert_eq!(visit_as_old().1, Resumed, "after a rotation"));

    server.primary().reload().unwrap();
    server.wait(|event| matches!(event, Event::ReloadDone { .. }));
    let (pid, kind) = visit_as_old();
    assert_eq!(kind, Resumed, "after a rotation and a reload");
    assert!(pid != first && !others.contains(&pid), "by a worker that came with the reload");

    signal_pid(pid, KILL);
    server.wait(|event| matches!(event, Event::Exit { .. }));
    server.wait(|event| matches!(event, Event::Listening { .. }));
    for _ in 0..4 {
        let (next, kind) = visit_as_old();
        assert_eq!(kind, Resumed, "after a worker was replaced");
        assert_ne!(next, pid);
    }

    server.primary().rotate_secrets().unwrap();
    while visit_as_old().1 == Resumed {}

    let (client, _) = Client::acquainted(&server, version);
    (0..4).for_each(|_| assert_eq!(client.visit().1, Resumed, "with a new ticket"));
}

#[test]
fn a_tls13_session_resumes_with_any_worker_until_two_rotations_later() {
    resumes_everywhere_until_two_rotations_later(&rustls::version::TLS13);
}

#[test]
fn a_tls12_session_resumes_with_any_worker_until_two_rotations_later() {
    resumes_everywhere_until_two_rotations_later(&rustls::version::TLS12);
}

/// Tickets in the order in which they came, each of TLS 1.3 used once; of TLS 1.2 the first.
#[derive(Default)]
struct Tickets {
    tls13: Mutex<VecDeque<Tls13ClientSessionValue>>,
    tls12: Mutex<Option<Tls12ClientSessionValue>>,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.tls12.lock().unwrap().get_or_insert(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.tls12.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.tls12.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tls13.lock().unwrap().push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tls13.lock().unwrap().pop_front()
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

/// The certificate is made anew for each cluster; who it names is not what is tested.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
