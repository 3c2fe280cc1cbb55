//! Answers without an end of their own, that end with the right to read them.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use http_body::{Frame, SizeHint};

use crate::serve::listen::Shutdown;

/// What an event stream says last.
const LAST_WORDS: &[u8] = b"event: error\ndata: {\"reason\":\"unauthorized\"}\n\n";

/// The answer, ended when `until` begins if it goes on for longer. One that is there as a whole is given.
pub(super) fn ended_with(response: Response, until: &Shutdown) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let is_stream = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let last = if is_stream { LAST_WORDS } else { b"" };
    let until = until.clone();
    response.map(|body| {
        let ended = until.clone();
        Body::new(Until { body: Some(body), until, ended: Box::pin(async move { ended.begun().await }), last })
    })
}

struct Until {
    /// `None` once it is over.
    body: Option<Body>,
    until: Shutdown,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    last: &'static [u8],
}

impl Until {
    fn end(&mut self) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.body = None;
        match self.last {
            b"" => Poll::Ready(None),
            last => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(last))))),
        }
    }
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // A stream that is always ahead must not outrun its end.
        let is_over = self.until.is_begun();
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if is_over {
            return self.end();
        }
        match Pin::new(body).poll_frame(context) {
            Poll::Pending if self.ended.as_mut().poll(context).is_ready() => self.end(),
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}
