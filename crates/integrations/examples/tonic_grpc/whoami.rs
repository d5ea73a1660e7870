//! The service `whoami.WhoAmI` with its one call `Ask`: what a generator would write, in short.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use everycore::{Listener, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::server::Connected;
use tonic_prost::ProstCodec;

/// What is asked: nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Question {}

/// Who answers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Answer {
    /// The worker's process.
    #[prost(uint32, tag = "1")]
    pub(crate) pid: u32,
}

/// The service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    /// What it answers.
    pub(crate) pid: u32,
}

impl NamedService for Service {
    const NAME: &'static str = "whoami.WhoAmI";
}

impl UnaryService<Question> for Service {
    type Response = Answer;
    type Future = std::future::Ready<Result<tonic::Response<Answer>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<Question>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(Answer { pid: self.pid })))
    }
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = *self;
        Box::pin(async move {
            if request.uri().path() != "/whoami.WhoAmI/Ask" {
                return Ok(tonic::Status::unimplemented("there is only Ask").into_http());
            }
            let codec = ProstCodec::<Answer, Question>::default();
            Ok(Grpc::new(codec).unary(service, request).await)
        })
    }
}

/// The listener's connections, in a form that tonic takes.
pub(crate) fn connections(listener: Listener) -> impl tokio_stream::Stream<Item = io::Result<Connection>> {
    tokio_stream::StreamExt::map(listener.into_stream(), |stream| stream.map(Connection))
}

/// A connection of which tonic knows the peer.
#[derive(Debug)]
pub(crate) struct Connection(Stream);

impl Connected for Connection {
    type ConnectInfo = everycore::BoundAddress;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.peer_addr().clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
