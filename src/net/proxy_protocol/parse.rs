//! Bytes that may begin with a PROXY header: pure, bounded, and as strict as the specification lets it be.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::{self, FromStr},
};

use super::{FIXED, SIGNATURE, crc::crc32c, tlv};

/// Longest header of version 1, its CRLF included (§2.1).
pub const LONGEST_LINE: usize = 107;

/// Longest header of version 2 that is read, in bytes. Its length field allows for 64 KiB; real ones, with
/// every TLV that is known, stay below 1 KiB.
pub const MOST: usize = 4096;

/// What a header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// Commands and families of version 2.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX: u8 = 0x31;
const DATAGRAMS: [u8; 3] = [0x12, 0x22, 0x32];

/// Bytes of two paths of unix sockets.
const PATHS: usize = 216;

/// What the bytes that a connection has brought so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// No header: none begins like this.
    Absent,
    /// What a header may begin with, and other things too.
    Undecided,
    /// A header that is not complete. All of these bytes belong to it.
    Partial,
    /// A header, and perhaps bytes after it.
    Whole(Header),
    /// What begins like a header and is none, and why.
    Broken(&'static str),
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its own bytes: the application's begin after them.
    pub length: usize,
    /// Source and destination; `None` where the connection is the proxy's own (`LOCAL`), or where it does
    /// not know or cannot tell (`UNKNOWN`, unspecified, unix sockets): the real ones stand.
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// Looks at the first bytes of a connection.
pub fn parse(bytes: &[u8]) -> Parsed {
    let begins = |with: &[u8]| {
        let length = bytes.len().min(with.len());
        bytes[..length] == with[..length]
    };
    let outcome = if bytes.is_empty() {
        return Parsed::Undecided;
    } else if begins(WORD) {
        if bytes.len() < WORD.len() {
            return Parsed::Undecided;
        }
        line(bytes)
    } else if begins(SIGNATURE) {
        if bytes.len() < SIGNATURE.len() {
            return Parsed::Undecided;
        }
        binary(bytes)
    } else {
        return Parsed::Absent;
    };
    match outcome {
        Ok(Some(header)) => Parsed::Whole(header),
        Ok(None) => Parsed::Partial,
        Err(why) => Parsed::Broken(why),
    }
}

/// Version 1; `None`: its end is missing.
fn line(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() == LONGEST_LINE { Err("its line is too long") } else { Ok(None) };
    };
    let length = end + 1;
    let text =
        line[WORD.len()..end].strip_suffix(b"\r").ok_or("its line does not end with CRLF")?;
    let text = str::from_utf8(text).map_err(|_| "its line is no text")?;
    let (family, rest) = text.split_once(' ').unwrap_or((text, ""));
    let ends = match family {
        // Whatever else it says is to be ignored.
        "UNKNOWN" => None,
        "TCP4" => Some(typed::<Ipv4Addr>(rest)?),
        "TCP6" => Some(typed::<Ipv6Addr>(rest)?),
        _ => return Err("its protocol is neither TCP4 nor TCP6 nor UNKNOWN"),
    };
    Ok(Some(Header { length, ends }))
}

/// Two addresses and two ports, one space between each.
fn typed<A: FromStr + Into<IpAddr>>(text: &str) -> Result<(SocketAddr, SocketAddr), &'static str> {
    let mut words = text.split(' ');
    let mut next = || words.next().ok_or("it ends before its addresses and ports do");
    let (from, to, from_port, to_port) = (next()?, next()?, next()?, next()?);
    if words.next().is_some() {
        return Err("it goes on after its ports");
    }
    let address = |typed: &str| typed.parse::<A>().map_err(|_| "an address of it is none");
    let source = SocketAddr::new(address(from)?.into(), port(from_port)?);
    Ok((source, SocketAddr::new(address(to)?.into(), port(to_port)?)))
}

/// A decimal number without sign or leading zero.
fn port(typed: &str) -> Result<u16, &'static str> {
    let plain = typed.bytes().all(|byte| byte.is_ascii_digit());
    let padded = typed.len() > 1 && typed.starts_with('0');
    let number = typed.parse().ok().filter(|_| plain && !padded);
    number.ok_or("a port of it is none")
}

/// Version 2; `None`: its end is missing. What is wrong with its beginning is told before that comes.
fn binary(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let Some(&command) = bytes.get(SIGNATURE.len()) else { return Ok(None) };
    if command >> 4 != 2 {
        return Err("its version is neither 1 nor 2");
    }
    if command != LOCAL && command != PROXY {
        return Err("its command is neither LOCAL nor PROXY");
    }
    let Some(&family) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let addresses = addresses(command, family)?;
    let Some(length) = bytes.get(FIXED - 2..FIXED) else { return Ok(None) };
    let length = FIXED + length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    if length > MOST {
        return Err("it is too long");
    }
    if length < FIXED + addresses {
        return Err("it is shorter than its addresses");
    }
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    if command == LOCAL || family == UNSPECIFIED {
        // Whatever else it says is to be ignored.
        return Ok(Some(Header { length, ends: None }));
    }
    let block = &whole[FIXED..FIXED + addresses];
    let ends = match family {
        TCP4 => packed::<4>(block),
        TCP6 => packed::<16>(block),
        _ => None,
    };
    tlvs(whole, FIXED + addresses)?;
    Ok(Some(Header { length, ends }))
}

/// How many bytes of addresses a family has.
fn addresses(command: u8, family: u8) -> Result<usize, &'static str> {
    match family {
        // Of its own connections a proxy says nothing that counts.
        _ if command == LOCAL => Ok(0),
        UNSPECIFIED => Ok(0),
        TCP4 => Ok(2 * (4 + 2)),
        TCP6 => Ok(2 * (16 + 2)),
        UNIX => Ok(PATHS),
        _ if DATAGRAMS.contains(&family) => Err("it speaks of datagrams"),
        _ => Err("its address family is not known"),
    }
}

/// Two addresses, then two ports.
fn packed<const N: usize>(block: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; N]>,
{
    let (from, rest) = block.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk()?;
    let (to_port, _) = rest.split_first_chunk()?;
    let end = |address: &[u8; N], port: &[u8; 2]| {
        SocketAddr::new(IpAddr::from(*address), u16::from_be_bytes(*port))
    };
    Some((end(from, from_port), end(to, to_port)))
}

/// Walks over the TLVs, which begin at `at` and must end with the header.
fn tlvs(whole: &[u8], mut at: usize) -> Result<(), &'static str> {
    const OVERRUN: &str = "a TLV of it overruns its end";
    while at < whole.len() {
        let (head, rest) = whole[at..].split_first_chunk().ok_or(OVERRUN)?;
        let [kind, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = rest.get(..length).ok_or(OVERRUN)?;
        let from = at + head.len();
        at = from + length;
        match kind {
            tlv::CRC32C => checked(whole, from, value)?,
            tlv::UNIQUE_ID if value.len() > tlv::LONGEST_ID => return Err("its id is too long"),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the checksum at `from` is that of the header with zeros in its place.
fn checked(whole: &[u8], from: usize, value: &[u8]) -> Result<(), &'static str> {
    let told: [u8; 4] = value.try_into().map_err(|_| "its checksum is none")?;
    let zeroed = (0..).zip(whole).map(|(n, byte)| match (from..from + told.len()).contains(&n) {
        true => 0,
        false => *byte,
    });
    match crc32c(zeroed) == u32::from_be_bytes(told) {
        true => Ok(()),
        false => Err("its checksum is wrong"),
    }
}
