//! Tickets: secrets that may stand in an address, because each opens one stream once, and soon or never.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::scope::Scope;
use super::token::{hash, random};
use crate::error::{Code, Error, Result};

/// As long as a page needs from asking for a ticket to opening its stream.
pub(super) const TTL_MAX: Duration = Duration::from_secs(60);

/// What a secret starts with.
pub const PREFIX: &str = "st_";

/// Tickets that wait; each lives a minute at most.
const WAITING_MAX: usize = 10_000;

/// 256 bits: nobody guesses them.
const SECRET_BYTES: usize = 32;

/// The tickets that wait for their stream, by the hash of their secret.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<HashMap<String, Ticket>>);

/// What a ticket opens, and for whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    /// The token that it was made with, whose limits it counts against.
    pub token: Option<String>,
    pub scopes: Vec<Scope>,
    expires: Instant,
}

impl Tickets {
    /// A secret that opens streams of these scopes, once, until `ttl` after `now`.
    pub fn make(&self, token: Option<String>, scopes: Vec<Scope>, ttl: Duration, now: Instant) -> Result<String> {
        let secret = format!("{PREFIX}{}", random(SECRET_BYTES)?);
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            waiting.retain(|_, ticket| ticket.expires > now);
        }
        if waiting.len() >= WAITING_MAX {
            return Err(Error::new(Code::Unavailable, format!("{WAITING_MAX} tickets wait to be used"))
                .hint("use them, or wait a minute"));
        }
        waiting.insert(hash(&secret), Ticket { token, scopes, expires: now + ttl.min(TTL_MAX) });
        Ok(secret)
    }

    /// Takes the ticket of a secret, if it is good at `now`.
    pub fn take(&self, secret: &str, now: Instant) -> Option<Ticket> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&hash(secret));
        taken.filter(|ticket| ticket.expires > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let tickets = Tickets::default();
        let now = Instant::now();
        let make = |ttl| tickets.make(None, vec![Scope::Stream("a".into())], Duration::from_secs(ttl), now).unwrap();
        let (once, late, capped) = (make(10), make(10), make(3_600));
        assert_eq!(tickets.take(&once, now).unwrap().scopes, [Scope::Stream("a".into())]);
        assert_eq!(tickets.take(&once, now), None);
        assert_eq!(tickets.take(&late, now + Duration::from_secs(10)), None);
        assert_eq!(tickets.take(&capped, now + TTL_MAX), None);
        assert_eq!(tickets.take("st_no", now), None);
    }

    #[test]
    fn waiting_tickets_are_bounded_and_old_ones_make_room() {
        let tickets = Tickets::default();
        let now = Instant::now();
        for _ in 0..WAITING_MAX {
            tickets.make(None, vec![], TTL_MAX, now).unwrap();
        }
        assert_eq!(tickets.make(None, vec![], TTL_MAX, now).unwrap_err().code(), Code::Unavailable);
        tickets.make(None, vec![], TTL_MAX, now + TTL_MAX).unwrap();
    }
}
