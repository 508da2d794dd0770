//! What the access log says of one stream, gathered while it lives.
//!
//! A [`StreamRecord`] is made when the request's header is there and kept by the stream, for as long as a
//! tunnel lives: it is small, bounded whatever a client sends, and it never holds a secret, because
//! secrets are removed before anything is stored. [`StreamEnd`] is what only the end can tell.

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

/// Longest of each text that is kept, in bytes; a client must not decide what a tunnel costs.
const MAX_ID: usize = 128;
const MAX_HOST: usize = 255;
const MAX_METHOD: usize = 32;
const MAX_PATH: usize = 2048;
/// Put where a path was cut.
const CUT: char = '…';
/// A duration that has not been measured.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// What a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamKind {
    /// A request and its response.
    #[default]
    Http,
    /// A connection that was upgraded from HTTP.
    Tunnel,
    /// One of layer 4.
    Stream,
}

/// What is known of a stream when its request's header is there.
#[derive(Clone, Copy, Debug)]
pub struct StreamStart<'a> {
    /// The request id.
    pub id: &'a str,
    /// The client's address: the peer's, or what a trusted proxy says.
    pub client: SocketAddr,
    /// The listener's name.
    pub listener: &'a Arc<str>,
    /// What TLS told of the client, where it was terminated here or its ClientHello was read.
    pub tls_info: Option<&'a Arc<TlsInfo>>,
    /// The host asked for; empty where none was named.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// Path and query as the client sent them; secrets are removed here.
    pub target: &'a str,
    /// Which secrets; `None`: the built-in list.
    pub redaction: Option<&'a Redaction>,
}

/// A pool and what led there, as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLabel {
    /// The route; `None`: the listener itself names the pool.
    pub route: Option<Box<str>>,
    /// The pool's name.
    pub pool: Box<str>,
}

/// A stream's line in the making.
///
/// Kept by every idle tunnel, hence one allocation for all texts and microseconds in 32 bits.
#[derive(Debug)]
pub struct StreamRecord {
    /// Where it was led to, once that is known.
    pub route_label: Option<Arc<RouteLabel>>,
    /// The backend's name, once one is chosen.
    pub backend: Option<Arc<str>>,
    pub(super) listener: Arc<str>,
    /// Id, host, method and path one after the other; `cuts` are where the first three end.
    texts: Box<str>,
    /// When it began, in milliseconds since 1970.
    pub(super) at: u64,
    started: Instant,
    pub(super) client: SocketAddr,
    cuts: [u16; 3],
    /// The status sent to the client; 0: none.
    pub status: u16,
    /// In microseconds from the start.
    pub(super) first_byte: u32,
    /// In microseconds.
    pub(super) connect: u32,
    /// How the backend was chosen.
    pub chosen_by: ChosenBy,
    pub(super) tls_info: Option<Arc<TlsInfo>>,
    /// What it is.
    pub form: StreamKind,
}

impl StreamRecord {
    /// A stream that begins now.
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

    /// The same stream, begun at an earlier time.
    #[must_use]
    pub fn begun(mut self, started: Instant) -> Self {
        let earlier = self.started.saturating_duration_since(started);
        self.at = self.at.saturating_sub(u64::try_from(earlier.as_millis()).unwrap_or_default());
        self.started = self.started.min(started);
        self
    }

    /// Notes how long connecting took, all tries together.
    pub fn connect_took(&mut self, time: Duration) {
        self.connect = micros(time);
    }

    /// Notes that the response's first byte came now; only the first call counts.
    pub fn first_byte_seen(&mut self) {
        if self.first_byte == UNKNOWN {
            self.first_byte = micros(self.started.elapsed());
        }
    }

    /// The request id.
    pub fn id(&self) -> &str {
        &self.texts[..self.cut(0)]
    }

    /// The host asked for.
    pub fn host(&self) -> &str {
        &self.texts[self.cut(0)..self.cut(1)]
    }

    /// The method.
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

/// What only the end of a stream can tell.
#[derive(Clone, Copy, Debug)]
pub struct StreamEnd<'a> {
    /// How it ended.
    pub termination: Termination,
    /// Body or tunnel bytes from the client.
    pub bytes_in: u64,
    /// Body or tunnel bytes to the client.
    pub bytes_out: u64,
    /// What happened, in a sentence; a refused request's reason stands in where it is missing.
    pub error: Option<&'a str>,
}

impl StreamEnd<'_> {
    /// An end without bytes or a sentence.
    pub fn new(termination: Termination) -> Self {
        Self { termination, bytes_in: 0, bytes_out: 0, error: None }
    }
}

fn push_path(texts: &mut String, target: &str, redaction: Option<&Redaction>) {
    let start = texts.len();
    redact(target, redaction.unwrap_or(&Redaction::default()), texts);
    if texts.len() - start > MAX_PATH {
        texts.truncate(texts.floor_char_boundary(start + MAX_PATH));
        texts.push(CUT);
    }
}

fn micros(time: Duration) -> u32 {
    // 71 minutes and more all look alike.
    u32::try_from(time.as_micros()).map_or(UNKNOWN - 1, |micros| micros.min(UNKNOWN - 1))
}

/// Milliseconds since 1970; a clock before that is taken for 1970.
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
    fn texts_are_bounded_whatever_a_client_sends() {
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
        record.first_byte_seen();
        let first = record.first_byte;
        while record.elapsed() < Duration::from_micros(u64::from(first) + 10) {}
        record.first_byte_seen();
        assert_eq!(record.first_byte, first);
    }
}
