//! `Idempotency-Key`: a write that a client sends again, because it does not know what became of it, is done once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::problem::{Problem, Result};
use crate::error::{Code, Error};

/// How long an answer is remembered.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Answers remembered: beyond this the oldest go, as if their time were up.
const ANSWERS_MAX: usize = 1_000;

/// The same for the bytes of all answers together.
const ANSWERS_BYTES_MAX: usize = 8 << 20;

/// Longest key, in bytes.
const KEY_MAX: usize = 255;

/// The writes that were done with a key.
#[derive(Default)]
pub struct IdempotencyKeys(Mutex<VecDeque<KeyEntry>>);

struct KeyEntry {
    /// Of the key and of who sent it: one client's key is not another's.
    key: [u8; 32],
    /// Of the request.
    request: [u8; 32],
    began: Instant,
    answer: Option<StoredAnswer>,
}

#[derive(Clone)]
struct StoredAnswer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl KeyEntry {
    fn bytes(&self) -> usize {
        self.answer.as_ref().map_or(0, |kept| kept.body.len())
    }
}

impl IdempotencyKeys {
    /// The answer that a request got before, or that of `write`. `request` is what the request asks for, in any form that is equal only
    /// where it asks for the same. Without the header nothing is remembered, and failures never are.
    pub async fn run(
        &self,
        headers: &HeaderMap,
        request: impl AsRef<[u8]>,
        write: impl Future<Output = Result<Response>>,
    ) -> Result<Response> {
        let Some(given) = headers.get("idempotency-key") else { return write.await };
        if given.is_empty() || given.len() > KEY_MAX {
            let error = Error::new(Code::BadOption, format!("Idempotency-Key has {} bytes", given.len()));
            return Err(error.hint(format!("give 1 to {KEY_MAX}, such as a UUID")).into());
        }
        let sender = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let key = hash(&[given.as_bytes(), sender]);
        let request = hash(&[request.as_ref()]);
        if let Some(kept) = self.begin(key, request)? {
            return Ok(kept.response());
        }
        let begun = WriteInProgress { once: self, key };
        let kept = StoredAnswer::of(write.await?).await?;
        begun.done(kept.clone());
        Ok(kept.response())
    }

    /// The answer that is remembered; `None` if there is none and the write is to be done now.
    fn begin(&self, key: [u8; 32], request: [u8; 32]) -> Result<Option<StoredAnswer>> {
        let mut entries = self.entries();
        while entries.front().is_some_and(|oldest| oldest.began.elapsed() > AGE_MAX) {
            entries.pop_front();
        }
        match entries.iter().find(|entry| entry.key == key) {
            Some(entry) if entry.request != request => {
                let error = Error::new(Code::BadOption, "this Idempotency-Key was sent with another request before");
                Err(error.hint("take a new key for each request; keep it when sending the same again").into())
            }
            Some(KeyEntry { answer: Some(kept), .. }) => Ok(Some(kept.clone())),
            Some(KeyEntry { answer: None, .. }) => {
                Err(Problem::unavailable("the request with this Idempotency-Key is still being done", 1)
                    .with_status(StatusCode::CONFLICT))
            }
            None => {
                if entries.len() == ANSWERS_MAX {
                    entries.pop_front();
                }
                entries.push_back(KeyEntry { key, request, began: Instant::now(), answer: None });
                Ok(None)
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<KeyEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write that is being done. One that fails, or whose client leaves, may be tried again.
struct WriteInProgress<'a> {
    once: &'a IdempotencyKeys,
    key: [u8; 32],
}

impl WriteInProgress<'_> {
    fn done(&self, kept: StoredAnswer) {
        let mut entries = self.once.entries();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.key == self.key) {
            entry.answer = Some(kept);
        }
        let mut bytes: usize = entries.iter().map(KeyEntry::bytes).sum();
        while bytes > ANSWERS_BYTES_MAX
            && entries.len() > 1
            && let Some(oldest) = entries.pop_front()
        {
            bytes -= oldest.bytes();
        }
    }
}

impl Drop for WriteInProgress<'_> {
    fn drop(&mut self) {
        self.once.entries().retain(|entry| entry.key != self.key || entry.answer.is_some());
    }
}

impl StoredAnswer {
    async fn of(response: Response) -> Result<StoredAnswer> {
        let (parts, body) = response.into_parts();
        let body =
            axum::body::to_bytes(body, usize::MAX).await.map_err(|error| Error::bug(format!("an answer broke off: {error}")))?;
        Ok(StoredAnswer { status: parts.status, headers: parts.headers, body })
    }

    fn response(self) -> Response {
        let mut response = Response::new(self.body.into());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use axum::response::IntoResponse;

    use super::*;

    fn key(key: &'static str) -> HeaderMap {
        HeaderMap::from_iter([("idempotency-key".parse().unwrap(), HeaderValue::from_static(key))])
    }

    #[tokio::test]
    async fn the_same_request_is_done_once() {
        let (once, done) = (IdempotencyKeys::default(), AtomicUsize::new(0));
        let write = async || {
            let number = done.fetch_add(1, Relaxed);
            Ok((StatusCode::CREATED, [("location", "/x")], number.to_string()).into_response())
        };
        for (headers, request, expect) in [
            (key("a"), "one", Ok("0")),
            (key("a"), "one", Ok("0")),
            (key("a"), "two", Err(422)),
            (key("b"), "one", Ok("1")),
            (HeaderMap::new(), "one", Ok("2")),
            (HeaderMap::new(), "one", Ok("3")),
            (key(""), "one", Err(422)),
        ] {
            match (once.run(&headers, request, write()).await, expect) {
                (Ok(answer), Ok(expect)) => {
                    let kept = StoredAnswer::of(answer).await.unwrap();
                    assert_eq!(
                        (kept.status.as_u16(), kept.headers["location"].to_str().unwrap(), &kept.body[..]),
                        (201, "/x", expect.as_bytes())
                    );
                }
                (Err(problem), Err(status)) => assert_eq!(problem.status().as_u16(), status),
                (answer, expect) => panic!("{:?} instead of {expect:?}", answer.map(|answer| answer.status())),
            }
        }
    }

    #[tokio::test]
    async fn what_failed_or_was_left_may_be_tried_again() {
        let once = IdempotencyKeys::default();
        let failed = once.run(&key("a"), "one", async { Err(Problem::unavailable("full", 1)) }).await;
        assert!(failed.is_err());
        {
            let headers = key("a");
            let left = once.run(&headers, "one", std::future::pending());
            let mut left = std::pin::pin!(left);
            assert!(futures::poll!(&mut left).is_pending());
            let second = once.run(&key("a"), "one", std::future::pending()).await;
            assert_eq!(second.unwrap_err().status(), StatusCode::CONFLICT);
        }
        assert!(once.run(&key("a"), "one", async { Ok(StatusCode::OK.into_response()) }).await.is_ok());
    }

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let once = IdempotencyKeys::default();
        for number in 0..2 * ANSWERS_MAX {
            let mut headers = key("a");
            headers.insert("idempotency-key", HeaderValue::from(number));
            once.run(&headers, "one", async { Ok(StatusCode::OK.into_response()) }).await.unwrap();
        }
        assert_eq!(once.entries().len(), ANSWERS_MAX);
    }
}
