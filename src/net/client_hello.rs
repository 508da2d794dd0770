//! What a ClientHello says of whom it is for, read from bytes that stay in the socket.
//!
//! [`read`] looks at all the bytes that have come so far, from the first one on, and never guesses: a
//! message that is not whole is [`Incomplete`](Peeked::Incomplete), one that breaks the rules
//! [`Broken`](Peeked::Broken). It is pure, and takes time in proportion to what it is given: records
//! are hopped over until the message is whole, and only then is it looked into (RFC 8446, sections 4.1.2
//! and 5.1; RFC 6066, section 3; RFC 7301, section 3.1). Of an encrypted ClientHello it sees the outer
//! one, whose name is the public one.

use std::{borrow::Cow, net::IpAddr};

/// Longest message. Post-quantum key shares make about 2 KiB; OpenSSL, BoringSSL and other proxies give
/// up at this as well.
pub const MOST: usize = 16 * 1024;

/// Most bytes that are looked at, records included: who cuts the message into pieces of a few bytes does
/// not want to be understood.
pub const MOST_PEEKED: usize = 2 * MOST;

/// Longest DNS name in its text form (RFC 1035 §2.3.4, without the final dot).
const MOST_NAME: usize = 253;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// Longest record in the clear.
const MOST_RECORD: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What the bytes that have come so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// The beginning of a ClientHello, for all that can be seen; more is to come.
    Incomplete,
    /// No TLS.
    NotTls,
    /// TLS, but no ClientHello that could be understood, and why.
    Broken(&'static str),
    /// A whole one.
    Hello(ClientHello),
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, in lower case and without a final dot; `None` where there is none, more than
    /// one, or one that is no DNS name.
    pub sni: Option<Box<str>>,
    /// The protocols offered, each after its length; checked.
    alpn: Box<[u8]>,
}

impl ClientHello {
    /// The protocols offered by ALPN, in the client's order.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.alpn[..];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (protocol, after) = after.split_at_checked(usize::from(length))?;
            rest = after;
            Some(protocol)
        })
    }

    /// The first protocol offered that is one, as text.
    pub fn first_protocol(&self) -> Option<Cow<'_, str>> {
        // RFC 8701 reserves some that stand for nothing.
        let reserved = |name: &[u8]| matches!(name, [a, b] if a == b && a & 0x0f == 0x0a);
        self.protocols().find(|name| !reserved(name)).map(String::from_utf8_lossy)
    }
}

/// Reads what has come so far.
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

/// The body of the first handshake message, once it is whole; put together where it lies in several
/// records.
fn message(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Peeked> {
    let mut whole: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    loop {
        let Some(Record { fragment, complete, after }) = record(rest, rest.len() < bytes.len())?
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

/// A record, as far as it is there.
struct Record<'a> {
    fragment: &'a [u8],
    complete: bool,
    /// What follows it.
    after: &'a [u8],
}

/// The first record of these, once its header is there.
fn record(bytes: &[u8], continued: bool) -> Result<Option<Record<'_>>, Peeked> {
    let wrong = |why| if continued { Peeked::Broken(why) } else { Peeked::NotTls };
    if bytes.first().is_some_and(|&kind| kind != HANDSHAKE) {
        return Err(wrong("another record comes within the ClientHello"));
    }
    // Whatever the minor version: it is a relic.
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
    Ok(Some(Record { fragment, complete, after }))
}

/// Length of the message's body, once it is there.
fn length(message: &[u8]) -> Result<Option<usize>, Peeked> {
    if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
        return Err(Peeked::Broken("the first message is no ClientHello"));
    }
    let Some(header) = message.get(1..MESSAGE_HEADER) else { return Ok(None) };
    let length = header.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    if length > MOST {
        return Err(Peeked::Broken("the ClientHello is too long"));
    }
    Ok(Some(length))
}

/// A whole ClientHello; `None` where it is malformed.
fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
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
            // Each may be there once (RFC 8446 §4.2).
            SERVER_NAME if std::mem::replace(&mut named, true) => return None,
            ALPN if std::mem::replace(&mut offered, true) => return None,
            SERVER_NAME => hello.sni = server_name(data)?,
            ALPN => hello.alpn = protocols(data)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The one name of a `server_name`; the outer `None` where that is malformed.
fn server_name(mut data: Reader<'_>) -> Option<Option<Box<str>>> {
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

/// A DNS name in lower case; `None` where it is none.
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

/// The list within an ALPN extension.
fn protocols(mut data: Reader<'_>) -> Option<Box<[u8]>> {
    let list = data.list16().filter(|_| data.0.is_empty())?;
    let mut rest = Reader(list.0);
    while !rest.0.is_empty() {
        rest.list8().filter(|name| !name.0.is_empty())?;
    }
    (!list.0.is_empty()).then(|| list.0.into())
}

/// Takes from the front; `None` where too little is there.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
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

    /// What a length of one byte says.
    fn list8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Self)
    }

    /// What a length of two bytes says.
    fn list16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Self)
    }
}

#[cfg(test)]
mod tests;
