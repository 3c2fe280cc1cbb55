//! What clients share that want the same views in the same shape: every change is encoded once, and one wake-up carries all that came.
//!
//! A channel cuts the changes of its views into runs: the bytes from one moment to the next. A client that has kept up takes runs as
//! they are; one that comes back from an earlier place reads the histories of the views by itself until it stands where a run begins.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::counters::Counters;
use super::encode::Encoder;
use super::frame::FrameFields;
use super::position::{Ids, Position};
use crate::error::Result;
use crate::view::{Followed, Follower, Health, HistoryEntry, Live, Snapshot};

/// Bytes of one run: a client is written to in pieces of about this size.
pub const RUN_BYTES: usize = 256 * 1024;

/// Bytes of the latest runs, kept for clients that are a little behind.
const RUNS_BYTES: usize = 1024 * 1024;

/// Entries of a view's history that are taken at once.
const ENTRIES: usize = 256;

/// How long a wake-up of one client takes, roughly. With many clients, runs are cut less often, so that waking them all leaves time
/// for other work: a thousand clients wait up to 10 ms for a change, ten thousand 100 ms.
const WAKE: Duration = Duration::from_micros(10);

/// The longest that changes wait, however many clients there are.
const PACE_MAX: Duration = Duration::from_millis(250);

/// Views in a shape, and what was sent of them last.
pub struct Channel {
    parts: Vec<ChannelView>,
    shared: Mutex<ChannelState>,
    /// The number of the run that comes next; changes when a run is there, and when the channel ends.
    turn: watch::Sender<u64>,
    counters: Arc<Counters>,
    /// Clients of the whole server, which share its time.
    clients: Arc<AtomicU64>,
    beat: OnceLock<AbortHandle>,
}

/// One view of a channel.
pub struct ChannelView {
    pub live: Arc<Live>,
    pub encoder: Encoder,
    /// Names the encoder among all that encode this view.
    key: Arc<str>,
    /// The latest snapshot that was encoded, if it is small, with the number of its last change.
    snapshot: Mutex<Option<(u64, Bytes)>>,
}

struct ChannelState {
    /// Up to which change of each view the runs go.
    at: Arc<[u64]>,
    runs: VecDeque<EventBatch>,
    bytes: usize,
    end: Option<End>,
    /// The views whose failure was told.
    failed: Vec<bool>,
}

/// Events that are sent together.
#[derive(Debug, Clone)]
pub struct EventBatch {
    pub bytes: Bytes,
    pub events: u64,
    /// Up to which change of each view a client has come with it.
    pub at: Arc<[u64]>,
}

/// Why a channel sends no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The program stops, and will be back.
    Shutdown,
    /// The stream was stopped, changed or deleted.
    Stopped,
    /// A view is gone, or was made anew.
    Dropped(String),
}

/// What comes next for a client that has come to a run.
pub enum Next {
    Run(EventBatch),
    /// Nothing yet; it has come as far as this.
    Wait(Arc<[u64]>),
    /// Its run is gone, or there never was one at its place: runs go up to `at`, and `turn` comes next.
    Behind {
        at: Arc<[u64]>,
        turn: u64,
    },
    End(End),
}

impl Channel {
    /// A channel that runs until its last client leaves. Must be called within a runtime.
    pub fn open(parts: Vec<(Arc<Live>, Encoder)>, counters: Arc<Counters>, clients: Arc<AtomicU64>) -> Arc<Channel> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let part = |(live, encoder)| {
            let key = format!("stream {}", NUMBER.fetch_add(1, Relaxed)).into();
            ChannelView { live, encoder, key, snapshot: Mutex::default() }
        };
        let parts: Vec<ChannelView> = parts.into_iter().map(part).collect();
        let at: Arc<[u64]> = parts.iter().map(|part| part.live.head()).collect();
        let followers = parts.iter().zip(at.iter()).map(|(part, at)| part.live.follow(*at)).collect();
        let shared = ChannelState { at, runs: VecDeque::new(), bytes: 0, end: None, failed: vec![false; parts.len()] };
        let channel = Arc::new(Channel {
            parts,
            shared: Mutex::new(shared),
            turn: watch::Sender::new(0),
            counters,
            clients,
            beat: OnceLock::new(),
        });
        let beat = tokio::spawn(beat(Arc::downgrade(&channel), followers));
        channel.beat.set(beat.abort_handle()).expect("a channel is opened once");
        channel
    }

    pub fn parts(&self) -> &[ChannelView] {
        &self.parts
    }

    /// Tells when to ask for what comes next.
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.turn.subscribe()
    }

    /// What comes for a client whose next run is `turn`; `None` if it is at no run.
    pub fn next(&self, turn: Option<u64>) -> Next {
        let shared = self.shared();
        let after = *self.turn.borrow();
        let first = after - shared.runs.len() as u64;
        match turn {
            Some(turn) if (first..after).contains(&turn) => Next::Run(shared.runs[(turn - first) as usize].clone()),
            Some(turn) if turn == after => match &shared.end {
                Some(end) => Next::End(end.clone()),
                None => Next::Wait(Arc::clone(&shared.at)),
            },
            _ => match &shared.end {
                Some(end @ (End::Stopped | End::Shutdown)) => Next::End(end.clone()),
                _ => Next::Behind { at: Arc::clone(&shared.at), turn: after },
            },
        }
    }

    /// Why the channel sends no more, if so.
    pub fn end(&self) -> Option<End> {
        self.shared().end.clone()
    }

    /// Ends the streams of all clients, once they have what is there.
    pub fn close(&self, end: End) {
        self.shared().end.get_or_insert(end);
        self.turn.send_modify(|_| {});
    }

    /// Ids of changes of view `moving` for a client that has come to `at` in the others.
    pub fn ids(&self, at: &[u64], moving: usize) -> Ids {
        let place = |(part, seq): (&ChannelView, &u64)| Position { epoch: part.live.epoch(), seq: *seq };
        let places = self.parts.iter().zip(at).map(|(part, seq)| (part.live.name.as_str(), place((part, seq))));
        Ids::among(&places.collect::<Vec<_>>(), moving)
    }

    /// The changes of an entry of view `part` from number `seq` on, and how many events they are.
    pub fn encode(&self, part: usize, entry: &HistoryEntry, seq: u64, at: &[u64]) -> Result<(Bytes, u64)> {
        let ChannelView { encoder, key, .. } = &self.parts[part];
        let ids = self.ids(at, part);
        let mut made = None;
        let mut make = || {
            let encoded = encoder.changes(&entry.changes, entry.first, seq, &ids, entry.at)?;
            Counters::add(&self.counters.render_errors, encoded.render_errors);
            Counters::add(&self.counters.oversized, encoded.oversized);
            made = Some(encoded.events);
            Ok(encoded.bytes)
        };
        // Ids of several views depend on how far a client is in each, and the rest of an entry on where it stands.
        if self.parts.len() > 1 || seq > entry.first {
            let bytes = make()?;
            return Ok((bytes, made.unwrap_or_default()));
        }
        let mut failed = None;
        let bytes = entry.encoded(key, || {
            make().unwrap_or_else(|error| {
                failed = Some(error);
                Bytes::new()
            })
        });
        match failed {
            Some(error) => Err(error),
            None => Ok((bytes.clone(), made.unwrap_or_else(|| events(&bytes)))),
        }
    }

    /// The bytes of a snapshot of view `part`, if it was encoded before and is small.
    pub fn kept_snapshot(&self, part: usize, seq: u64) -> Option<Bytes> {
        let kept = self.parts[part].snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|(kept, _)| *kept == seq).map(|(_, bytes)| bytes.clone())
    }

    /// Keeps the bytes of a whole snapshot for the next client.
    pub fn keep_snapshot(&self, part: usize, snapshot: &Snapshot, bytes: &Bytes) {
        *self.parts[part].snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some((snapshot.seq, bytes.clone()));
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Cuts what has come since the last run into runs; says whether the channel goes on.
    fn advance(&self, followers: &mut [Follower]) -> bool {
        loop {
            let taken: Vec<Vec<Followed>> = followers.iter_mut().map(|follower| follower.ready(ENTRIES)).collect();
            let more = taken.iter().any(|entries| entries.len() == ENTRIES);
            let mut at = self.shared().at.to_vec();
            let mut entries: Vec<(i64, usize, Arc<HistoryEntry>)> = Vec::new();
            let mut gap = false;
            let mut end = None;
            for (part, followed) in taken.into_iter().enumerate() {
                // The clock may step back, the changes of a view may not.
                let mut latest = i64::MIN;
                for followed in followed {
                    match followed {
                        Followed::Entry(entry) => {
                            latest = latest.max(entry.at.nanos());
                            entries.push((latest, part, entry));
                        }
                        Followed::Gap { .. } => {
                            at[part] = followers[part].live().head();
                            followers[part].seek(at[part]);
                            gap = true;
                        }
                        Followed::Dropped => end = Some(End::Dropped(self.parts[part].live.name.clone())),
                    }
                }
            }
            entries.sort_by_key(|(when, part, _)| (*when, *part));
            let runs = self.runs(&entries, &mut at);
            let failures = self.failures();
            let cut = runs.len() as u64 + u64::from(failures.is_some());
            let ended = end.is_some();
            {
                let mut shared = self.shared();
                shared.at = at.into();
                if gap {
                    // Whoever was up to date has missed something; it reads the histories and finds out.
                    shared.runs.clear();
                    shared.bytes = 0;
                }
                shared.push(runs);
                if let Some(bytes) = failures {
                    let at = Arc::clone(&shared.at);
                    shared.push(vec![EventBatch { events: events(&bytes), bytes, at }]);
                }
                if let Some(end) = end {
                    shared.end.get_or_insert(end);
                }
                if cut > 0 || gap || ended {
                    // Under the lock: the number of a run and the run are seen together.
                    self.turn.send_modify(|turn| *turn += cut + u64::from(gap));
                }
            }
            if ended {
                return false;
            }
            if !more && !gap {
                return true;
            }
        }
    }

    /// The changes of the entries as few pieces of bytes; moves `at` behind them.
    fn runs(&self, entries: &[(i64, usize, Arc<HistoryEntry>)], at: &mut [u64]) -> Vec<EventBatch> {
        let mut runs = Vec::new();
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut count = 0;
        for (index, (_, part, entry)) in entries.iter().enumerate() {
            match self.encode(*part, entry, entry.first, at) {
                Ok((bytes, events)) => {
                    count += events;
                    pieces.push(bytes);
                }
                Err(error) => {
                    tracing::error!(view = self.parts[*part].live.name, %error, "changes cannot be encoded");
                    let (bytes, events) = self.unreadable(*part, entry, at);
                    count += events;
                    pieces.push(bytes);
                }
            }
            at[*part] = entry.last;
            let bytes: usize = pieces.iter().map(Bytes::len).sum();
            if bytes > RUN_BYTES || (index + 1 == entries.len() && bytes > 0) {
                runs.push(EventBatch { bytes: joined(&mut pieces), events: std::mem::take(&mut count), at: at.to_vec().into() });
            }
        }
        runs
    }

    /// What is said of changes that cannot be encoded, with the id of the last of them.
    fn unreadable(&self, part: usize, entry: &HistoryEntry, at: &[u64]) -> (Bytes, u64) {
        let id = self.ids(at, part).of(entry.last);
        let data = serde_json::json!({"reason": "encoding", "view": self.parts[part].live.name, "changes": entry.last - entry.first + 1});
        let mut out = Vec::new();
        FrameFields { id: Some(&id), name: Some("error") }.write(data.to_string().as_bytes(), &mut out);
        (out.into(), 1)
    }

    /// What is said of views that have failed since the last time.
    fn failures(&self) -> Option<Bytes> {
        let mut out = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            if let Health::Failed(error) = part.live.health()
                && !std::mem::replace(&mut self.shared().failed[index], true)
            {
                failure(&part.live.name, &error, &mut out);
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    fn shared(&self) -> MutexGuard<'_, ChannelState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long changes wait for others to be sent with.
    fn pace(&self) -> Duration {
        let clients = u32::try_from(self.clients.load(Relaxed)).unwrap_or(u32::MAX);
        WAKE.saturating_mul(clients).min(PACE_MAX)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(beat) = self.beat.get() {
            beat.abort();
        }
    }
}

impl ChannelState {
    fn push(&mut self, runs: Vec<EventBatch>) {
        for run in runs {
            self.bytes += run.bytes.len();
            self.runs.push_back(run);
        }
        while self.runs.len() > 1 && self.bytes > RUNS_BYTES {
            self.bytes -= self.runs.pop_front().map_or(0, |run| run.bytes.len());
        }
    }
}

/// An event that tells why a view gives no more changes.
pub fn failure(view: &str, error: &crate::error::Error, out: &mut Vec<u8>) {
    let data = serde_json::json!({
        "reason": "failed", "view": view, "code": error.code().to_string(), "detail": error.message(), "hint": error.way_out(),
    });
    FrameFields::named("error").write(data.to_string().as_bytes(), out);
}

/// How many events the bytes are: each ends with a blank line, and has none inside.
pub fn events(bytes: &[u8]) -> u64 {
    memchr::memmem::find_iter(bytes, b"\n\n").count() as u64
}

fn joined(pieces: &mut Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let all = pieces.concat();
    pieces.clear();
    all.into()
}

/// Cuts runs as changes come, no faster than the clients can be woken.
async fn beat(channel: Weak<Channel>, mut followers: Vec<Follower>) {
    loop {
        let pace = {
            let Some(channel) = channel.upgrade() else { return };
            if !channel.advance(&mut followers) {
                return;
            }
            channel.pace()
        };
        let cut = Instant::now();
        match followers.as_mut_slice() {
            [one] => one.changed().await,
            several => drop(futures::future::select_all(several.iter_mut().map(|one| Box::pin(one.changed()))).await),
        }
        tokio::time::sleep_until(cut + pace).await;
    }
}
