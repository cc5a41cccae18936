//! How many connections a listener has: accepted sockets flow in, and those
//! for which there is room flow on. The others are closed at once.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::extract::{ConnectInfo, Request};
use axum_server::accept::Accept;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::limits::{Peer, Place, Shares};

/// What a listener gives to those who connect.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one address.
    pub of_one_address: usize,
    /// Bytes of a request's head, and what is kept of a body that nobody has
    /// read yet.
    pub buffer: usize,
    /// For a request's head. hyper counts the pause before it, too.
    pub head: Duration,
}

impl Limits {
    /// For API servers, which talk HTTP/1.1 to webhooks: a connection for each
    /// call under way, and idle ones besides. More than requests may be under
    /// way, so that what is too much is answered and counted, not cut off. They
    /// close what is idle for 90 s, which is sooner: the client closes first,
    /// and no request races the server's closing.
    pub const ADMISSION: Self = Self {
        connections: 1024,
        of_one_address: 384,
        buffer: 64 << 10,
        head: Duration::from_secs(120),
    };
    /// For agents: one connection each, which they close after 90 s, too.
    pub const IDENTITY: Self = Self {
        connections: 1024,
        of_one_address: 64,
        buffer: 16 << 10,
        head: Duration::from_secs(120),
    };
    /// For verifiers, which may all come through one proxy.
    pub const DOCUMENTS: Self = Self {
        connections: 256,
        of_one_address: 256,
        buffer: 8 << 10,
        head: Duration::from_secs(30),
    };
    /// For kubelet and Prometheus.
    pub const OBSERVABILITY: Self = Self {
        connections: 64,
        of_one_address: 16,
        buffer: 8 << 10,
        head: Duration::from_secs(30),
    };

    pub(crate) fn places(&self) -> Shares<Peer> {
        Shares::new(self.connections, self.of_one_address)
    }
}

/// Where the connection of a request comes from.
pub(crate) fn peer(request: &Request) -> Peer {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    address.map_or(nowhere, |address| address.0.ip()).into()
}

/// Accepts what there is a place for, and hands that to `inner`.
#[derive(Debug, Clone)]
pub(crate) struct Bounded<A> {
    inner: A,
    places: Shares<Peer>,
}

impl<A> Bounded<A> {
    pub(crate) fn new(inner: A, places: Shares<Peer>) -> Self {
        Self { inner, places }
    }
}

impl<A, S> Accept<TcpStream, S> for Bounded<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
{
    type Stream = Connection<A::Stream>;
    type Service = A::Service;
    type Future =
        Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send + 'static>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let address = stream.peer_addr();
        let place = address.and_then(|address| {
            let place = self.places.try_take(&address.ip().into(), 1);
            place.ok_or_else(|| {
                tracing::debug!(%address, "one connection too many");
                io::Error::other("one connection too many")
            })
        });
        let accepted = self.inner.accept(stream, service);
        Box::pin(async move {
            let place = place?;
            let (stream, service) = accepted.await?;
            let connection = Connection {
                stream,
                _place: place,
            };
            Ok((connection, service))
        })
    }
}

/// A connection and its place.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: S,
    _place: Place<Peer>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
