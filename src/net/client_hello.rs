//! Reads server name and ALPN from a ClientHello whose bytes stay in the socket.
//!
//! [`read`] parses all bytes received so far, from the first one, and never guesses: an unfinished message is
//! [`Incomplete`](Peeked::Incomplete), an invalid one is [`Broken`](Peeked::Broken). The function is pure and
//! runs in time linear in its input: it skips over records until the message is complete, and only then parses
//! it (RFC 8446, sections 4.1.2 and 5.1; RFC 6066, section 3; RFC 7301, section 3.1). Of an encrypted
//! ClientHello it sees the outer one, which carries the public name.

use std::{borrow::Cow, net::IpAddr};

/// Maximum message size. Post-quantum key shares need about 2 KiB; OpenSSL, BoringSSL and other proxies use
/// the same limit.
pub const MOST: usize = 16 * 1024;

/// Maximum bytes inspected, record headers included. A message cut into records of a few bytes exceeds the
/// limit and is rejected.
pub const MOST_PEEKED: usize = 2 * MOST;

/// Longest DNS name in its text form (RFC 1035 §2.3.4, without the final dot).
const MOST_NAME: usize = 253;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// Maximum size of a plaintext record.
const MOST_RECORD: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// Result of parsing the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// A valid beginning of a ClientHello; more bytes are needed.
    Incomplete,
    /// The bytes are not TLS.
    NotTls,
    /// TLS, but not a valid ClientHello, with the reason.
    Broken(&'static str),
    /// A complete ClientHello.
    Hello(ClientHello),
}

/// What a client requests in its ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Server name in lower case without a final dot. `None` if it is absent, repeated, or not a DNS name.
    pub sni: Option<Box<str>>,
    /// Offered protocols, each preceded by its length; validated.
    alpn: Box<[u8]>,
}

impl ClientHello {
    /// Iterates over the protocols offered by ALPN, in the client's order.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.alpn[..];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (protocol, after) = after.split_at_checked(usize::from(length))?;
            rest = after;
            Some(protocol)
        })
    }

    /// Returns the first protocol offered that is not a reserved value, as text.
    pub fn first_protocol(&self) -> Option<Cow<'_, str>> {
        // RFC 8701 reserves values without a meaning.
        let reserved = |name: &[u8]| matches!(name, [a, b] if a == b && a & 0x0f == 0x0a);
        self.protocols().find(|name| !reserved(name)).map(String::from_utf8_lossy)
    }
}

/// Parses the bytes received so far.
pub fn read(bytes: &[u8]) -> Peeked {
    match message(bytes) {
        Ok(Some(message)) => match hello(&message) {
            Some(hello) => Peeked::Hello(hello),
            None => Peeked::Broken("the ClientHello is malformed"),
        },
        Ok(None) if bytes.len() >= MOST_PEEKED => {
            Peeked::Broken("the ClientHello is cut into too many records")
        }
        Ok(None) => Peeked::Incomplete,
        Err(other) => other,
    }
}

/// Returns the body of the first handshake message once it is complete, reassembled if it spans several
/// records.
fn message(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Peeked> {
    let mut whole: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    loop {
        let Some(TlsRecord { fragment, complete, after }) = record(rest, rest.len() < bytes.len())?
        else {
            return Ok(None);
        };
        if whole.is_empty() {
            whole = Cow::Borrowed(fragment);
        } else {
            whole.to_mut().extend_from_slice(fragment);
        }
        if let Some(length) = length(&whole)?
            && let Some(body) = whole.get(MESSAGE_HEADER..MESSAGE_HEADER + length)
        {
            return Ok(Some(match whole {
                Cow::Borrowed(whole) => Cow::Borrowed(&whole[MESSAGE_HEADER..][..length]),
                Cow::Owned(_) => Cow::Owned(body.to_vec()),
            }));
        }
        if !complete {
            return Ok(None);
        }
        rest = after;
    }
}

/// A TLS record, as far as it has been received.
struct TlsRecord<'a> {
    fragment: &'a [u8],
    complete: bool,
    /// Bytes after the record.
    after: &'a [u8],
}

/// Returns the first record once its header is complete.
fn record(bytes: &[u8], continued: bool) -> Result<Option<TlsRecord<'_>>, Peeked> {
    let wrong = |why| if continued { Peeked::Broken(why) } else { Peeked::NotTls };
    if bytes.first().is_some_and(|&kind| kind != HANDSHAKE) {
        return Err(wrong("another record comes within the ClientHello"));
    }
    // The minor version is ignored: it is a relic.
    if bytes.get(1).is_some_and(|&major| major != 3) {
        return Err(wrong("a record within the ClientHello has no TLS version"));
    }
    let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length == 0 || length > MOST_RECORD {
        return Err(Peeked::Broken("a record is empty or too long"));
    }
    let complete = rest.len() >= length;
    let (fragment, after) = rest.split_at(length.min(rest.len()));
    Ok(Some(TlsRecord { fragment, complete, after }))
}

/// Returns the length of the message body once it is known.
fn length(message: &[u8]) -> Result<Option<usize>, Peeked> {
    if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
        return Err(Peeked::Broken("the first message is not a ClientHello"));
    }
    let Some(header) = message.get(1..MESSAGE_HEADER) else { return Ok(None) };
    let length = header.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    if length > MOST {
        return Err(Peeked::Broken("the ClientHello is too long"));
    }
    Ok(Some(length))
}

/// Parses a complete ClientHello; `None` if it is malformed.
fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut body = ByteReader(body);
    let _version_and_random = body.take(2 + 32)?;
    let _session = body.list8().filter(|id| id.0.len() <= 32)?;
    let _suites = body.list16().filter(|suites| !suites.0.is_empty() && suites.0.len() % 2 == 0)?;
    let _compressions = body.list8().filter(|methods| !methods.0.is_empty())?;
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = body.list16().filter(|_| body.0.is_empty())?;
    let (mut named, mut offered) = (false, false);
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.u16()?, extensions.list16()?);
        match kind {
            // An extension may occur once (RFC 8446 §4.2).
            SERVER_NAME if std::mem::replace(&mut named, true) => return None,
            ALPN if std::mem::replace(&mut offered, true) => return None,
            SERVER_NAME => hello.sni = server_name(data)?,
            ALPN => hello.alpn = protocols(data)?,
            _ => {}
        }
    }
    Some(hello)
}

/// Returns the single name of a `server_name` extension; the outer `None` means malformed.
fn server_name(mut data: ByteReader<'_>) -> Option<Option<Box<str>>> {
    const HOST_NAME: u8 = 0;
    let mut names = data.list16().filter(|_| data.0.is_empty())?;
    let (mut found, mut hosts) = (None, 0);
    while !names.0.is_empty() {
        let (kind, name) = (names.u8()?, names.list16()?);
        if kind == HOST_NAME {
            hosts += 1;
            found = host(name.0);
        }
    }
    Some(found.filter(|_| hosts == 1))
}

/// Returns a DNS name in lower case; `None` if it is not valid.
fn host(name: &[u8]) -> Option<Box<str>> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    let label = |label: &[u8]| (1..=63).contains(&label.len()) && label.iter().all(allowed);
    if name.len() > MOST_NAME || !name.split(|&byte| byte == b'.').all(label) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    // RFC 6066: addresses are not permitted.
    name.parse::<IpAddr>().is_err().then(|| name.to_ascii_lowercase().into())
}

/// Returns the list in an ALPN extension.
fn protocols(mut data: ByteReader<'_>) -> Option<Box<[u8]>> {
    let list = data.list16().filter(|_| data.0.is_empty())?;
    let mut rest = ByteReader(list.0);
    while !rest.0.is_empty() {
        rest.list8().filter(|name| !name.0.is_empty())?;
    }
    (!list.0.is_empty()).then(|| list.0.into())
}

/// Reads from the front of a slice; `None` if too few bytes are left.
#[derive(Clone, Copy)]
struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Reads a list with a length prefix of one byte.
    fn list8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Self)
    }

    /// Reads a list with a length prefix of two bytes.
    fn list16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Self)
    }
}

#[cfg(test)]
mod tests;
