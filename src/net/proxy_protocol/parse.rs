//! Parses PROXY headers: pure, bounded, and as strict as the specification allows.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::{self, FromStr},
};

use super::{FIXED, SIGNATURE, crc::crc32c, tlv};

/// Maximum length of a version 1 header, CRLF included (§2.1).
pub const LONGEST_LINE: usize = 107;

/// Maximum accepted length of a version 2 header, in bytes. The length field allows 64 KiB; real headers with
/// every known TLV stay below 1 KiB.
pub const MOST: usize = 4096;

/// First bytes of a version 1 header.
const WORD: &[u8] = b"PROXY ";

/// Commands and families of version 2.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX: u8 = 0x31;
const DATAGRAMS: [u8; 3] = [0x12, 0x22, 0x32];

/// Size of two unix socket paths.
const PATHS: usize = 216;

/// Result of parsing the first bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedHeader {
    /// Not a PROXY header.
    Absent,
    /// Too few bytes to decide.
    Undecided,
    /// An incomplete header. All bytes belong to it.
    Partial,
    /// A complete header, perhaps with bytes after it.
    Whole(ProxyHeader),
    /// An invalid header, with the reason.
    Broken(&'static str),
}

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Length in bytes; application data begins after it.
    pub length: usize,
    /// Source and destination. `None` if the header carries no addresses (`LOCAL`, `UNKNOWN`, unspecified, unix
    /// sockets): the socket's own addresses apply.
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// Parses the first bytes of a connection.
pub fn parse(bytes: &[u8]) -> ParsedHeader {
    let begins = |with: &[u8]| {
        let length = bytes.len().min(with.len());
        bytes[..length] == with[..length]
    };
    let outcome = if bytes.is_empty() {
        return ParsedHeader::Undecided;
    } else if begins(WORD) {
        if bytes.len() < WORD.len() {
            return ParsedHeader::Undecided;
        }
        line(bytes)
    } else if begins(SIGNATURE) {
        if bytes.len() < SIGNATURE.len() {
            return ParsedHeader::Undecided;
        }
        binary(bytes)
    } else {
        return ParsedHeader::Absent;
    };
    match outcome {
        Ok(Some(header)) => ParsedHeader::Whole(header),
        Ok(None) => ParsedHeader::Partial,
        Err(why) => ParsedHeader::Broken(why),
    }
}

/// Parses version 1; `None` if it is incomplete.
fn line(bytes: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() == LONGEST_LINE { Err("the line is too long") } else { Ok(None) };
    };
    let length = end + 1;
    let text =
        line[WORD.len()..end].strip_suffix(b"\r").ok_or("the line does not end with CRLF")?;
    let text = str::from_utf8(text).map_err(|_| "the line is not valid text")?;
    let (family, rest) = text.split_once(' ').unwrap_or((text, ""));
    let ends = match family {
        // The rest of the line must be ignored.
        "UNKNOWN" => None,
        "TCP4" => Some(typed::<Ipv4Addr>(rest)?),
        "TCP6" => Some(typed::<Ipv6Addr>(rest)?),
        _ => return Err("the protocol is not TCP4, TCP6 or UNKNOWN"),
    };
    Ok(Some(ProxyHeader { length, ends }))
}

/// Parses two addresses and two ports, separated by one space each.
fn typed<A: FromStr + Into<IpAddr>>(text: &str) -> Result<(SocketAddr, SocketAddr), &'static str> {
    let mut words = text.split(' ');
    let mut next = || words.next().ok_or("addresses or ports are missing");
    let (from, to, from_port, to_port) = (next()?, next()?, next()?, next()?);
    if words.next().is_some() {
        return Err("there is text after the ports");
    }
    let address = |typed: &str| typed.parse::<A>().map_err(|_| "an IP address is invalid");
    let source = SocketAddr::new(address(from)?.into(), port(from_port)?);
    Ok((source, SocketAddr::new(address(to)?.into(), port(to_port)?)))
}

/// Parses a decimal port without sign or leading zero.
fn port(typed: &str) -> Result<u16, &'static str> {
    let plain = typed.bytes().all(|byte| byte.is_ascii_digit());
    let padded = typed.len() > 1 && typed.starts_with('0');
    let number = typed.parse().ok().filter(|_| plain && !padded);
    number.ok_or("a port is invalid")
}

/// Parses version 2; `None` if it is incomplete. An invalid beginning is reported before the end arrives.
fn binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let Some(&command) = bytes.get(SIGNATURE.len()) else { return Ok(None) };
    if command >> 4 != 2 {
        return Err("the version is not 1 or 2");
    }
    if command != LOCAL && command != PROXY {
        return Err("the command is not LOCAL or PROXY");
    }
    let Some(&family) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let addresses = addresses(command, family)?;
    let Some(length) = bytes.get(FIXED - 2..FIXED) else { return Ok(None) };
    let length = FIXED + length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    if length > MOST {
        return Err("the header is too long");
    }
    if length < FIXED + addresses {
        return Err("the length is too small for the addresses");
    }
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    if command == LOCAL || family == UNSPECIFIED {
        // The rest of the header must be ignored.
        return Ok(Some(ProxyHeader { length, ends: None }));
    }
    let block = &whole[FIXED..FIXED + addresses];
    let ends = match family {
        TCP4 => packed::<4>(block),
        TCP6 => packed::<16>(block),
        _ => None,
    };
    tlvs(whole, FIXED + addresses)?;
    Ok(Some(ProxyHeader { length, ends }))
}

/// Returns the size of the address block of a family.
fn addresses(command: u8, family: u8) -> Result<usize, &'static str> {
    match family {
        // The addresses of a LOCAL header have no meaning.
        _ if command == LOCAL => Ok(0),
        UNSPECIFIED => Ok(0),
        TCP4 => Ok(2 * (4 + 2)),
        TCP6 => Ok(2 * (16 + 2)),
        UNIX => Ok(PATHS),
        _ if DATAGRAMS.contains(&family) => Err("datagram protocols are not supported"),
        _ => Err("the address family is unknown"),
    }
}

/// Parses two addresses followed by two ports.
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

/// Checks the TLVs, which begin at `at` and must end with the header.
fn tlvs(whole: &[u8], mut at: usize) -> Result<(), &'static str> {
    const OVERRUN: &str = "a TLV extends beyond the end of the header";
    while at < whole.len() {
        let (head, rest) = whole[at..].split_first_chunk().ok_or(OVERRUN)?;
        let [kind, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = rest.get(..length).ok_or(OVERRUN)?;
        let from = at + head.len();
        at = from + length;
        match kind {
            tlv::CRC32C => checked(whole, from, value)?,
            tlv::UNIQUE_ID if value.len() > tlv::LONGEST_ID => {
                return Err("the unique id is too long");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Verifies the checksum at `from`, which is computed with zeros in its place.
fn checked(whole: &[u8], from: usize, value: &[u8]) -> Result<(), &'static str> {
    let expected: [u8; 4] = value.try_into().map_err(|_| "the checksum does not have 4 bytes")?;
    let zeroed =
        (0..).zip(whole).map(|(n, byte)| match (from..from + expected.len()).contains(&n) {
            true => 0,
            false => *byte,
        });
    match crc32c(zeroed) == u32::from_be_bytes(expected) {
        true => Ok(()),
        false => Err("the checksum is wrong"),
    }
}
