//! The bytes of a connection. What the HTTP library refuses by itself, before any route is asked, leaves as a problem as well.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::problem::Problem;

/// What an answer begins with that the library may have made, and what it lacks then.
const REFUSAL: &[u8] = b"HTTP/1.1 4";
const OF_OURS: &[u8] = b"\r\nx-request-id: ";

/// A socket.
pub(super) struct Wire {
    stream: TcpStream,
    /// Bytes that go out before all others.
    own: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        Wire { stream, own: Vec::new() }
    }

    fn poll_own(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.own))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.own.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// The problem in place of a bare refusal.
fn in_words(bytes: &[u8]) -> Option<Vec<u8>> {
    if !bytes.starts_with(REFUSAL) || !bytes.ends_with(b"\r\n\r\n") || memchr::memmem::find(bytes, OF_OURS).is_some() {
        return None;
    }
    let status = std::str::from_utf8(bytes.get(9..12)?).ok()?.parse().ok()?;
    Some(refusal(StatusCode::from_u16(status).ok()?, Problem::of_status))
}

/// An answer that ends its connection.
fn refusal(status: StatusCode, problem: impl Fn(StatusCode) -> Problem) -> Vec<u8> {
    let id = format!("{:032x}", fastrand::u128(..));
    let problem = problem(status).named(&id);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    tracing::info!(status = status.as_u16(), reason = problem.detail(), request_id = id, "a request cannot be read");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\
         cache-control: no-store\r\nx-content-type-options: nosniff\r\nx-request-id: {id}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

/// Tells a client that there is no place for it, if it can be told at once.
pub(super) fn turn_away(stream: &TcpStream) {
    let full = |_| Problem::unavailable("the server has as many connections as it takes", 5);
    // The client is gone, or it is told by the end of its connection.
    let _ = stream.try_write(&refusal(StatusCode::SERVICE_UNAVAILABLE, full));
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_own(context))?;
        if let Some(own) = in_words(bytes) {
            self.own = own;
            return match self.poll_own(context) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(bytes.len())),
            };
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match parts {
            [head, rest @ ..] if head.starts_with(REFUSAL) && rest.iter().all(|part| part.is_empty()) => {
                self.poll_write(context, head)
            }
            _ => {
                ready!(self.poll_own(context))?;
                Pin::new(&mut self.stream).poll_write_vectored(context, parts)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_library_refuses_is_said_in_words() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        let told = String::from_utf8(in_words(bare).unwrap()).unwrap();
        assert!(
            told.starts_with("HTTP/1.1 431 ") && told.contains("application/problem+json") && told.contains("SG-1607"),
            "{told}"
        );
        for other in [
            &b"HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nabc",
            b"data: HTTP/1.1 400\n\n",
            b"HTTP/1.1 4",
        ] {
            assert_eq!(in_words(other), None);
        }
    }
}
