//! How many streams may be open: all together, of one address, of one token; and how fast one address may open them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use super::problem::Problem;
use super::proxies::neighbourhood;
use super::settings::Http;

/// Of one address, where the settings say nothing: a page opens a handful, a build farm some dozens.
const PER_ADDRESS_MAX: usize = 50;

/// New streams a second of one address, where the settings say nothing: clients of a whole office that reconnect at once.
const CONNECTS_PER_SECOND_MAX: u32 = 100;

/// Seconds to wait until a place may be free.
const RETRY_AFTER_FULL: u64 = 5;

/// Addresses that are remembered for their rate; beyond, the ones that have been quiet for a second are forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// Bounds the open event streams of the whole server. Clones share their counts.
#[derive(Debug, Clone)]
pub struct StreamLimiter(Arc<LimiterState>);

#[derive(Debug)]
struct LimiterState {
    limits: RwLock<LimiterBounds>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone)]
struct LimiterBounds {
    all: usize,
    per_address: Option<usize>,
    per_token: usize,
    per_second: Option<u32>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    addresses: HashMap<IpAddr, usize>,
    tokens: HashMap<String, usize>,
    rates: HashMap<IpAddr, Rate>,
}

/// A bucket of connects that fills by the second.
#[derive(Debug)]
struct Rate {
    left: f64,
    at: Instant,
}

/// The place of one open stream; it is free again when this is dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<LimiterState>,
    address: IpAddr,
    token: Option<String>,
}

impl StreamLimiter {
    pub fn new(http: &Http) -> Self {
        StreamLimiter(Arc::new(LimiterState { limits: RwLock::new(LimiterBounds::of(http)), counts: Mutex::default() }))
    }

    /// Takes other settings; streams that are open stay.
    pub fn set(&self, http: &Http) {
        *self.0.limits.write().unwrap_or_else(PoisonError::into_inner) = LimiterBounds::of(http);
    }

    /// A place for a stream of this address and token, or 429 (the client has too many) or 503 (all have).
    pub fn enter(&self, address: IpAddr, token: Option<&str>, now: Instant) -> Result<Permit, Problem> {
        let limits = self.0.limits.read().unwrap_or_else(PoisonError::into_inner).clone();
        let address = neighbourhood(address);
        // Behind a proxy on this machine, all clients seem to be on it.
        let own = address.is_loopback();
        let per_address = limits.per_address.or((!own).then_some(PER_ADDRESS_MAX)).unwrap_or(usize::MAX);
        let per_second = limits.per_second.or((!own).then_some(CONNECTS_PER_SECOND_MAX));
        let mut counts = self.counts();
        if let Some(per_second) = per_second.filter(|per_second| !counts.allows_one_more(address, *per_second, now)) {
            let detail = format!("{address} opens more than {per_second} streams a second");
            return Err(Problem::too_many(detail, 1, &raise("connects_per_second_max")));
        }
        if counts.all >= limits.all {
            let detail = format!("{} streams are open, and no more are taken; http.streams_max is the limit", limits.all);
            return Err(Problem::unavailable(detail, RETRY_AFTER_FULL));
        }
        if counts.addresses.get(&address).is_some_and(|open| *open >= per_address) {
            let detail = format!("{address} has {per_address} open streams, and may have no more");
            let hint = format!("{}; behind a proxy, name it in http.trusted_proxies", raise("streams_per_address_max"));
            return Err(Problem::too_many(detail, RETRY_AFTER_FULL, &hint));
        }
        if token.and_then(|token| counts.tokens.get(token)).is_some_and(|open| *open >= limits.per_token) {
            let detail = format!("the token has {} open streams, and may have no more", limits.per_token);
            return Err(Problem::too_many(detail, RETRY_AFTER_FULL, &raise("streams_per_token_max")));
        }
        counts.all += 1;
        *counts.addresses.entry(address).or_default() += 1;
        let token = token.map(str::to_string);
        if let Some(token) = &token {
            *counts.tokens.entry(token.clone()).or_default() += 1;
        }
        Ok(Permit { shared: self.0.clone(), address, token })
    }

    /// Streams that are open now.
    pub fn open(&self) -> usize {
        self.counts().all
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn allows_one_more(&mut self, address: IpAddr, per_second: u32, now: Instant) -> bool {
        if self.rates.len() >= ADDRESSES_MAX {
            self.rates.retain(|_, rate| now.saturating_duration_since(rate.at).as_secs() < 1);
        }
        let full = f64::from(per_second);
        let rate = self.rates.entry(address).or_insert(Rate { left: full, at: now });
        let passed = now.saturating_duration_since(rate.at).as_secs_f64();
        rate.left = (rate.left + passed * full).min(full);
        rate.at = now;
        let allowed = rate.left >= 1.0;
        if allowed {
            rate.left -= 1.0;
        }
        allowed
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        leave(&mut counts.addresses, &self.address);
        if let Some(token) = &self.token {
            leave(&mut counts.tokens, token);
        }
    }
}

/// What to do about a limit.
fn raise(setting: &str) -> String {
    format!("close some, or raise http.{setting} in the settings")
}

impl LimiterBounds {
    fn of(http: &Http) -> LimiterBounds {
        LimiterBounds {
            all: http.streams_max,
            per_address: http.streams_per_address_max,
            per_token: http.streams_per_token_max,
            per_second: http.connects_per_second_max,
        }
    }
}

/// One less; who has none is forgotten.
fn leave<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(open) = counts.get_mut(key) {
        *open -= 1;
        if *open == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limiter(change: impl FnOnce(&mut Http)) -> StreamLimiter {
        let mut http = Http::default();
        change(&mut http);
        StreamLimiter::new(&http)
    }

    fn far(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn every_limit_holds_and_a_place_is_free_again() {
        let now = Instant::now();
        let limiter = limiter(|http| (http.streams_max, http.streams_per_token_max) = (60, 5));
        let mut open: Vec<Permit> = (0..50).map(|_| limiter.enter(far(1), None, now).unwrap()).collect();
        assert_eq!(limiter.enter(far(1), None, now).unwrap_err().status(), 429);
        open.extend((0..5).map(|_| limiter.enter(far(2), Some("tk_1"), now).unwrap()));
        assert_eq!(limiter.enter(far(3), Some("tk_1"), now).unwrap_err().status(), 429);
        open.extend((0..5).map(|_| limiter.enter(far(3), Some("tk_2"), now).unwrap()));
        assert_eq!(limiter.enter(far(4), None, now).unwrap_err().status(), 503);
        open.truncate(49);
        drop(limiter.enter(far(1), Some("tk_1"), now).unwrap());
        assert_eq!(limiter.open(), 49);
        drop(open);
        let counts = limiter.counts();
        assert!(counts.all == 0 && counts.addresses.is_empty() && counts.tokens.is_empty(), "{counts:?}");
    }

    #[test]
    fn one_address_opens_only_so_many_a_second() {
        let start = Instant::now();
        let limiter = limiter(|http| http.connects_per_second_max = Some(10));
        let enter = |address, millis| limiter.enter(address, None, start + Duration::from_millis(millis)).is_ok();
        assert_eq!((0..20).filter(|_| enter(far(1), 0)).count(), 10);
        assert!(enter(far(2), 0));
        assert_eq!((0..20).filter(|_| enter(far(1), 500)).count(), 5);
        assert_eq!((0..20).filter(|_| enter(far(1), 9_000)).count(), 10);
    }

    #[test]
    fn this_machine_has_no_limit_of_its_own_unless_one_is_set() {
        let now = Instant::now();
        let own: IpAddr = [127, 0, 0, 1].into();
        let free = limiter(|_| {});
        let open: Vec<Permit> = (0..1_000).map(|_| free.enter(own, None, now).unwrap()).collect();
        assert_eq!(free.enter(own, None, now).unwrap_err().status(), 503);
        drop(open);
        let bound = limiter(|http| http.streams_per_address_max = Some(1));
        let _one = bound.enter(own, None, now).unwrap();
        assert_eq!(bound.enter(own, None, now).unwrap_err().status(), 429);
    }

    #[test]
    fn addresses_that_come_once_are_forgotten() {
        let start = Instant::now();
        let limiter = limiter(|http| http.streams_max = usize::MAX);
        for number in 0..30_000u32 {
            let address = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            drop(limiter.enter(address, None, start + Duration::from_millis(number.into())));
        }
        assert!(limiter.counts().rates.len() <= ADDRESSES_MAX);
    }
}
