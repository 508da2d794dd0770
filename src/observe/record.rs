//! What the access log says about a stream, collected during its lifetime.
//!
//! A [`StreamRecord`] is created when the request header has arrived, and lives as long as the
//! stream, which may be a tunnel. It is small and bounded whatever a client sends, and holds no
//! secrets, because secrets are removed before anything is stored. [`StreamEnd`] adds what is known
//! only at the end.

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    names::ChosenBy,
    redact::{Redaction, redact},
};
use crate::{error::Termination, net::tls::TlsInfo};

/// Maximum length of each stored text, in bytes: a client must not determine the cost of a tunnel.
const MAX_ID: usize = 128;
const MAX_HOST: usize = 255;
const MAX_METHOD: usize = 32;
const MAX_PATH: usize = 2048;
/// Appended to a truncated path.
const CUT: char = '…';
/// A duration that was not measured.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// Kind of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamKind {
    /// A request and its response.
    #[default]
    Http,
    /// A connection upgraded from HTTP.
    Tunnel,
    /// A layer 4 stream.
    Stream,
}

/// What is known about a stream when its request header has arrived.
#[derive(Clone, Copy, Debug)]
pub struct StreamStart<'a> {
    /// Request id.
    pub id: &'a str,
    /// Address of the client: the peer's, or the one that a trusted proxy names.
    pub client: SocketAddr,
    /// Name of the listener.
    pub listener: &'a Arc<str>,
    /// TLS properties, if TLS was terminated here or the ClientHello was read.
    pub tls_info: Option<&'a Arc<TlsInfo>>,
    /// Requested host; may be empty.
    pub host: &'a str,
    /// Request method.
    pub method: &'a str,
    /// Path and query as sent by the client; secrets are removed here.
    pub target: &'a str,
    /// Which values are secret; `None`: the built-in list.
    pub redaction: Option<&'a Redaction>,
}

/// Route and pool of a stream, as logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLabel {
    /// The route; `None` if the listener itself names the pool.
    pub route: Option<Box<str>>,
    /// Name of the pool; `None`: the route answers without one.
    pub pool: Option<Box<str>>,
}

/// Data for the log line of a stream.
///
/// Kept by every idle tunnel: therefore one allocation for all texts, and microseconds in 32 bits.
#[derive(Debug)]
pub struct StreamRecord {
    /// Route and pool, once known.
    pub route_label: Option<Arc<RouteLabel>>,
    /// Name of the backend, once chosen.
    pub backend: Option<Arc<str>>,
    pub(super) listener: Arc<str>,
    /// Id, host, method and path concatenated; `cuts` are the ends of the first three.
    texts: Box<str>,
    /// Start time, in milliseconds since 1970.
    pub(super) at: u64,
    started: Instant,
    pub(super) client: SocketAddr,
    cuts: [u16; 3],
    /// Status sent to the client; 0: none.
    pub status: u16,
    /// Time to the first byte, in microseconds from the start.
    pub(super) first_byte: u32,
    /// Time to connect, in microseconds.
    pub(super) connect: u32,
    /// How the backend was chosen.
    pub chosen_by: ChosenBy,
    pub(super) tls_info: Option<Arc<TlsInfo>>,
    /// Kind of the stream.
    pub form: StreamKind,
}

impl StreamRecord {
    /// Creates the record of a stream that begins now.
    pub fn new(start: StreamStart<'_>) -> Self {
        thread_local!(static TEXTS: RefCell<String> = const { RefCell::new(String::new()) });
        let (texts, cuts) = TEXTS.with_borrow_mut(|texts| {
            texts.clear();
            let cuts = [(start.id, MAX_ID), (start.host, MAX_HOST), (start.method, MAX_METHOD)]
                .map(|(text, most)| {
                    texts.push_str(&text[..text.floor_char_boundary(most)]);
                    texts.len() as u16
                });
            push_path(texts, start.target, start.redaction);
            (Box::from(texts.as_str()), cuts)
        });
        Self {
            route_label: None,
            backend: None,
            listener: start.listener.clone(),
            texts,
            at: now(),
            started: Instant::now(),
            client: start.client,
            cuts,
            status: 0,
            first_byte: UNKNOWN,
            connect: UNKNOWN,
            chosen_by: ChosenBy::None,
            tls_info: start.tls_info.map(Arc::clone),
            form: StreamKind::Http,
        }
    }

    /// Moves the start to an earlier time.
    #[must_use]
    pub fn begun(mut self, started: Instant) -> Self {
        let earlier = self.started.saturating_duration_since(started);
        self.at = self.at.saturating_sub(u64::try_from(earlier.as_millis()).unwrap_or_default());
        self.started = self.started.min(started);
        self
    }

    /// Records how long connecting took, over all tries.
    pub fn connect_took(&mut self, time: Duration) {
        self.connect = micros(time);
    }

    /// Records that the first byte of the response arrived at this moment; only the first call counts.
    pub fn first_byte_seen(&mut self, now: Instant) {
        if self.first_byte == UNKNOWN {
            self.first_byte = micros(now.saturating_duration_since(self.started));
        }
    }

    /// Request id.
    pub fn id(&self) -> &str {
        &self.texts[..self.cut(0)]
    }

    /// Requested host.
    pub fn host(&self) -> &str {
        &self.texts[self.cut(0)..self.cut(1)]
    }

    /// Request method.
    pub fn method(&self) -> &str {
        &self.texts[self.cut(1)..self.cut(2)]
    }

    /// Path and query, without secrets.
    pub fn path(&self) -> &str {
        &self.texts[self.cut(2)..]
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn cut(&self, n: usize) -> usize {
        usize::from(self.cuts[n])
    }
}

/// What is known only at the end of a stream.
#[derive(Clone, Copy, Debug)]
pub struct StreamEnd<'a> {
    /// How the stream ended.
    pub termination: Termination,
    /// Body or tunnel bytes from the client.
    pub bytes_in: u64,
    /// Body or tunnel bytes to the client.
    pub bytes_out: u64,
    /// Error text; if it is missing, the log shows the reason of a rejected request.
    pub error: Option<&'a str>,
}

impl StreamEnd<'_> {
    /// Creates an end without bytes and error text.
    pub fn new(termination: Termination) -> Self {
        Self { termination, bytes_in: 0, bytes_out: 0, error: None }
    }
}

fn push_path(texts: &mut String, target: &str, redaction: Option<&Redaction>) {
    let start = texts.len();
    redact(target, redaction.unwrap_or(Redaction::built_in()), texts);
    if texts.len() - start > MAX_PATH {
        texts.truncate(texts.floor_char_boundary(start + MAX_PATH));
        texts.push(CUT);
    }
}

fn micros(time: Duration) -> u32 {
    // Durations of 71 minutes and more are equal.
    u32::try_from(time.as_micros()).map_or(UNKNOWN - 1, |micros| micros.min(UNKNOWN - 1))
}

/// Milliseconds since 1970; 0 if the clock is before 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: &str, target: &str) -> StreamRecord {
        let (client, listener) = ("[2001:db8::7]:4711".parse().unwrap(), &"web".into());
        StreamRecord::new(StreamStart {
            id: "r-1",
            client,
            listener,
            tls_info: None,
            host,
            method: "GET",
            target,
            redaction: None,
        })
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<StreamRecord>() <= 160, "{} bytes", size_of::<StreamRecord>());
    }

    #[test]
    fn texts_are_bounded_for_any_request() {
        let long = "ä".repeat(40_000);
        let record = record(&long, &format!("/?x={long}"));
        assert!(record.host().len() <= MAX_HOST && long.starts_with(record.host()));
        assert!(record.path().len() <= MAX_PATH + CUT.len_utf8());
        assert!(record.path().starts_with("/?x=ää") && record.path().ends_with(CUT));
        assert_eq!((record.id(), record.method()), ("r-1", "GET"));
    }

    #[test]
    fn durations_saturate_and_the_first_byte_is_the_first() {
        assert_eq!(micros(Duration::from_micros(17)), 17);
        assert_eq!(micros(Duration::MAX), UNKNOWN - 1);
        let mut record = record("a", "/");
        record.first_byte_seen(Instant::now());
        let first = record.first_byte;
        while record.elapsed() < Duration::from_micros(u64::from(first) + 10) {}
        record.first_byte_seen(Instant::now());
        assert_eq!(record.first_byte, first);
    }
}
