//! The file of a stored response: a prefix of fixed size, a head and the body.
//!
//! All numbers are little-endian. The head and the body have a checksum each, so that the head can be read alone. Another
//! format gets another [`MAGIC`]; files of other formats count as damaged.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;
use xxhash_rust::xxh3::xxh3_64;

use crate::gateway::cache::{
    policy::Freshness, store::CacheKey, stored::StoredResponse, vary::SelectingFields,
};

/// First bytes of a file; the last one is the version of the format.
const MAGIC: [u8; 8] = *b"MOORCCH\x01";

/// Bytes before the head.
pub(super) const PREFIX: usize = 36;

/// Largest head; more is damage.
const LARGEST_HEAD: usize = 4 << 20;

/// What the prefix says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilePrefix {
    pub(super) head: usize,
    pub(super) body: u64,
    head_sum: u64,
    body_sum: u64,
}

impl FilePrefix {
    /// Reads the prefix of a file of this size; `None`: it is damaged or foreign.
    pub(super) fn read(bytes: &[u8; PREFIX], size: u64) -> Option<Self> {
        let mut reader = FormatReader(bytes);
        let magic = reader.take(MAGIC.len())?;
        let head = usize::try_from(reader.u32()?).ok()?;
        let prefix =
            Self { head, body: reader.u64()?, head_sum: reader.u64()?, body_sum: reader.u64()? };
        let whole = prefix.body.checked_add(head as u64)?.checked_add(PREFIX as u64)?;
        (magic == MAGIC && head <= LARGEST_HEAD && whole == size).then_some(prefix)
    }

    /// Reads a head, whose body follows; `None`: it is damaged.
    pub(super) fn decode_head(&self, head: &[u8]) -> Option<(CacheKey, StoredResponse)> {
        (xxh3_64(head) == self.head_sum).then(|| decode(head)).flatten()
    }

    /// Whether this is the body that was written.
    pub(super) fn is_body(&self, body: &[u8]) -> bool {
        xxh3_64(body) == self.body_sum
    }
}

/// The prefix and the head of a file.
pub(super) fn encode(key: &CacheKey, stored: &StoredResponse) -> Vec<u8> {
    let mut out = vec![0; PREFIX];
    let (scope, url) = key.parts();
    put_u64(&mut out, scope);
    put_bytes(&mut out, url.as_bytes());
    put_u64(&mut out, u64::from(stored.status.as_u16()));
    put_freshness(&mut out, &stored.freshness);
    put_u32(&mut out, stored.fields.len());
    for (name, value) in &stored.fields {
        put_bytes(&mut out, name);
        put_bytes(&mut out, value);
    }
    put_selecting(&mut out, &stored.selecting);
    put_u32(&mut out, stored.tags.len());
    for tag in &stored.tags {
        put_bytes(&mut out, tag.as_bytes());
    }
    let mut prefix = Vec::with_capacity(PREFIX);
    prefix.extend_from_slice(&MAGIC);
    put_u32(&mut prefix, out.len() - PREFIX);
    put_u64(&mut prefix, stored.body.len() as u64);
    put_u64(&mut prefix, xxh3_64(&out[PREFIX..]));
    put_u64(&mut prefix, xxh3_64(&stored.body));
    out[..PREFIX].copy_from_slice(&prefix);
    out
}

/// Names the response of a URL to requests with these fields.
pub(super) fn variant(selecting: &SelectingFields) -> u64 {
    let mut out = Vec::new();
    put_selecting(&mut out, selecting);
    xxh3_64(&out)
}

fn decode(head: &[u8]) -> Option<(CacheKey, StoredResponse)> {
    let mut reader = FormatReader(head);
    let scope = reader.u64()?;
    let key = CacheKey::new(scope, reader.text()?);
    let status = StatusCode::from_u16(u16::try_from(reader.u64()?).ok()?).ok()?;
    let freshness = reader.freshness()?;
    let fields = reader.list(|reader| Some((reader.bytes()?.into(), reader.bytes()?.into())))?;
    let selecting = reader.list(|reader| {
        let name = reader.text()?.into();
        let value = match reader.take(1)? {
            [0] => None,
            _ => Some(reader.bytes()?.into()),
        };
        Some((name, value))
    })?;
    let tags = reader.list(|reader| reader.text().map(Into::into))?;
    let selecting = SelectingFields(selecting);
    let body = Bytes::new();
    Some((key, StoredResponse { status, fields, body, freshness, selecting, tags }))
}

fn put_u32(out: &mut Vec<u8>, number: usize) {
    // Heads are far smaller than 4 GiB; a larger number is found as damage.
    out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_time(out: &mut Vec<u8>, time: Duration) {
    put_u64(out, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
}

fn put_freshness(out: &mut Vec<u8>, freshness: &Freshness) {
    put_time(out, freshness.received.duration_since(UNIX_EPOCH).unwrap_or_default());
    for time in
        [freshness.initial_age, freshness.lifetime, freshness.while_revalidate, freshness.if_error]
    {
        put_time(out, time);
    }
    let flags = [freshness.no_cache, freshness.must_revalidate, freshness.is_shared];
    out.extend(flags.map(u8::from));
}

fn put_selecting(out: &mut Vec<u8>, selecting: &SelectingFields) {
    put_u32(out, selecting.0.len());
    for (name, value) in &selecting.0 {
        put_bytes(out, name.as_bytes());
        out.push(value.is_some().into());
        if let Some(value) = value {
            put_bytes(out, value);
        }
    }
}

/// The bytes that are not yet read.
struct FormatReader<'b>(&'b [u8]);

impl<'b> FormatReader<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<&'b str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Box<[T]>> {
        let count = self.u32()?;
        (0..count).map(|_| read(self)).collect()
    }

    fn freshness(&mut self) -> Option<Freshness> {
        let mut time = || self.u64().map(Duration::from_millis);
        let received: SystemTime = UNIX_EPOCH.checked_add(time()?)?;
        let (initial_age, lifetime) = (time()?, time()?);
        let (while_revalidate, if_error) = (time()?, time()?);
        let [no_cache, must_revalidate, is_shared] = *self.take(3)? else { return None };
        Some(Freshness {
            initial_age,
            received,
            lifetime,
            no_cache: no_cache != 0,
            must_revalidate: must_revalidate != 0,
            is_shared: is_shared != 0,
            while_revalidate,
            if_error,
        })
    }
}
