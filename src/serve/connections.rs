//! How many connections may be open before anybody has said who he is, of all and of one address; and who goes when there is no room.
//!
//! A connection that waits for its client costs a file and says nothing: it goes first, the longest silent one of the address that has
//! most. So new requests are served while any connection is silent, however many there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::activity::Activity;
use super::proxies::{Proxies, neighbourhood};
use super::settings::Http;

/// Connections where the limit of open files is unknown or has no end.
const CONNECTIONS_MAX: usize = 10_000;

/// Files that feeds, the data directory and the program itself keep, besides a quarter of all.
const FILES_KEPT: usize = 32;

/// The log is told that there is no room once in so long.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// All open connections of a server, whichever address they came to. Clones share them.
#[derive(Debug, Clone)]
pub struct Connections(Arc<CrowdState>);

#[derive(Debug)]
struct CrowdState {
    limits: RwLock<ConnectionLimits>,
    proxies: Proxies,
    open: Mutex<OpenConnections>,
    next: AtomicU64,
    full: LogThrottle,
    files: LogThrottle,
}

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    all: usize,
    per_address: usize,
    pub head: Duration,
    pub body: Duration,
    pub idle: Duration,
    pub unread: Duration,
}

#[derive(Debug, Default)]
struct OpenConnections {
    members: HashMap<u64, (IpAddr, Arc<Activity>)>,
    addresses: HashMap<IpAddr, usize>,
}

/// The place of one connection; it is free again when this is dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    connections: Connections,
    number: u64,
    pub activity: Arc<Activity>,
}

impl Connections {
    /// For the settings, and for as many files as the process may have open.
    pub fn new(http: &Http, files_max: Option<u64>) -> Self {
        let proxies = Proxies::default();
        proxies.set(&http.trusted_proxies);
        Connections(Arc::new(CrowdState {
            limits: RwLock::new(ConnectionLimits::of(http, files_max)),
            proxies,
            open: Mutex::default(),
            next: AtomicU64::new(0),
            full: LogThrottle::default(),
            files: LogThrottle::default(),
        }))
    }

    /// Takes other settings; connections that are open stay.
    pub fn set(&self, http: &Http, files_max: Option<u64>) {
        *self.0.limits.write().unwrap_or_else(PoisonError::into_inner) = ConnectionLimits::of(http, files_max);
        self.0.proxies.set(&http.trusted_proxies);
    }

    pub fn limits(&self) -> ConnectionLimits {
        *self.0.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn proxies(&self) -> &Proxies {
        &self.0.proxies
    }

    /// A place for a connection of this address; where there is none, a silent connection gives up its own. `None` if all are busy.
    pub fn admit(&self, peer: IpAddr) -> Option<ConnectionSlot> {
        let limits = self.limits();
        let (address, shares) = (neighbourhood(peer), !peer.to_canonical().is_loopback() && !self.0.proxies.trusts(peer));
        let mut open = self.open();
        if shares && open.addresses.get(&address).is_some_and(|count| *count >= limits.per_address) {
            self.tell(&format!("{address} has {} connections, and may have no more", limits.per_address));
            open.evict(|member| *member == address)?;
        }
        if open.members.len() >= limits.all {
            self.tell(&format!("{} connections are open, and there may be no more", limits.all));
            open.evict(|_| true)?;
        }
        let (number, activity) = (self.0.next.fetch_add(1, Relaxed), Arc::new(Activity::new(Instant::now())));
        open.members.insert(number, (address, Arc::clone(&activity)));
        *open.addresses.entry(address).or_default() += 1;
        Some(ConnectionSlot { connections: self.clone(), number, activity })
    }

    /// Makes room when the system gives no more files; whether a silent connection was there to go.
    pub fn make_room(&self, error: &std::io::Error) -> bool {
        if self.0.files.is_due(Instant::now()) {
            tracing::error!(%error, "no connection can be taken; see the limit of open files (ulimit -n)");
        }
        self.open().evict(|_| true).is_some()
    }

    /// Connections that are open now.
    pub fn len(&self) -> usize {
        self.open().members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn tell(&self, reason: &str) {
        if self.0.full.is_due(Instant::now()) {
            tracing::warn!(
                reason,
                "silent connections are closed to make room; see http.connections_max and http.connections_per_address_max"
            );
        }
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionLimits {
    fn of(http: &Http, files_max: Option<u64>) -> ConnectionLimits {
        let files = files_max.and_then(|files| usize::try_from(files).ok());
        let possible =
            files.map_or(CONNECTIONS_MAX, |files| (files - files / 4).saturating_sub(FILES_KEPT).clamp(8, CONNECTIONS_MAX));
        let all = http.connections_max.unwrap_or(possible).max(1);
        ConnectionLimits {
            all,
            per_address: http.connections_per_address_max.unwrap_or(all / 2).max(1),
            head: http.head_timeout,
            body: http.body_timeout,
            idle: http.idle_timeout,
            unread: http.unread_timeout,
        }
    }
}

impl OpenConnections {
    /// Ends the connection that has waited longest for its client, of the address that has most of them.
    fn evict(&mut self, of: impl Fn(&IpAddr) -> bool) -> Option<()> {
        let silent = self.members.iter().filter(|(_, (address, _))| of(address)).filter_map(|(number, (address, activity))| {
            let since = activity.waits_since()?;
            Some((self.addresses.get(address).copied().unwrap_or_default(), std::cmp::Reverse(since), *number))
        });
        let (.., number) = silent.max()?;
        let (_, activity) = self.remove(number)?;
        activity.end();
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<(IpAddr, Arc<Activity>)> {
        let (address, activity) = self.members.remove(&number)?;
        if let Some(count) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
        Some((address, activity))
    }
}

impl ConnectionSlot {
    pub fn limits(&self) -> ConnectionLimits {
        self.connections.limits()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.open().remove(self.number);
    }
}

/// Something that the log is told now and then.
#[derive(Debug, Default)]
struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= TOLD_EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// How many files the process may have open, after asking the system for as many as it gives.
pub fn files_max() -> Option<u64> {
    #[cfg(unix)]
    {
        // As much as the hard limit allows; an error leaves the limit as it is.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        rlimit::Resource::NOFILE.get_soft().ok()
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(all: usize, per_address: usize) -> Connections {
        let http = Http { connections_max: Some(all), connections_per_address_max: Some(per_address), ..Http::default() };
        Connections::new(&http, None)
    }

    fn far(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn files_leave_room_for_feeds() {
        for (files, expect) in
            [(Some(256), 160), (Some(1024), 736), (Some(20), 8), (Some(u64::MAX), CONNECTIONS_MAX), (None, CONNECTIONS_MAX)]
        {
            assert_eq!(ConnectionLimits::of(&Http::default(), files).all, expect, "{files:?}");
        }
    }

    #[test]
    fn the_longest_silent_of_who_has_most_goes_first() {
        let connections = connections(4, 3);
        let mut places: Vec<ConnectionSlot> =
            [far(1), far(2), far(2), far(3)].map(|peer| connections.admit(peer).unwrap()).into();
        places.push(connections.admit(far(4)).unwrap());
        let ended: Vec<bool> = places.iter().map(|place| place.activity.is_ended()).collect();
        assert_eq!(ended, [false, true, false, false, false]);
        assert_eq!(connections.len(), 4);
        drop(places);
        assert!(connections.is_empty() && connections.open().addresses.is_empty());
    }

    #[test]
    fn a_stranger_takes_no_more_than_his_share_and_busy_connections_stay() {
        let connections = connections(4, 2);
        let own: Vec<ConnectionSlot> = (0..2).map(|_| connections.admit(far(1)).unwrap()).collect();
        let flights: Vec<_> = own.iter().map(|place| place.activity.begin()).collect();
        assert!(connections.admit(far(1)).is_none());
        let _others: Vec<ConnectionSlot> = [far(2), far(3)].map(|peer| connections.admit(peer).unwrap()).into();
        drop(flights);
        let _next = connections.admit(far(1)).unwrap();
        assert!(own[0].activity.is_ended() && !own[1].activity.is_ended());
        // All that comes from this machine may be one proxy's.
        assert!((0..4).filter_map(|_| connections.admit([127, 0, 0, 1].into())).count() == 4);
    }
}
