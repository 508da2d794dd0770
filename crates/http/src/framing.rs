//! How long a body is: the decision of RFC 9112 §6.3, without the parts that implementations read differently.

use super::{body::BodyLength, fault::HeadFault, field::FieldId, head::Head};

/// Largest `Content-Length` that is accepted: every implementation represents it exactly.
pub const MOST_BYTES: u64 = 1 << 53;

/// Returns the length that `Content-Length` and `Transfer-Encoding` announce; `None` if neither is present.
/// Identical `Content-Length` fields are merged into one.
pub(crate) fn announced(
    head: &mut Head,
    version_1_1: bool,
) -> Result<Option<BodyLength>, HeadFault> {
    let coded = head.has(FieldId::TransferEncoding);
    let length = content_length(head)?;
    if !coded {
        return Ok(length.map(BodyLength::Exactly));
    }
    if !version_1_1 {
        return Err(HeadFault::CodingVersion);
    }
    codings(head)?;
    match length {
        None => Ok(Some(BodyLength::Chunked)),
        Some(_) => Err(HeadFault::LengthAndCoding),
    }
}

/// Accepts exactly one field with exactly one transfer coding, `chunked`. Even an empty element of the list is
/// rejected: some implementations would take it for the last coding. [`HeadFault::Coding`] only if the length of the
/// body is certain, because `chunked` is the last coding (RFC 9112 §6.3).
fn codings(head: &Head) -> Result<(), HeadFault> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if head.only(FieldId::TransferEncoding).is_some_and(is_chunked) {
        return Ok(());
    }
    let mut codings = head.tokens(FieldId::TransferEncoding);
    let first = codings.next().unwrap_or(b"chunked");
    let is_certain = codings.last().is_some_and(is_chunked) && !is_chunked(first);
    Err(if is_certain { HeadFault::Coding } else { HeadFault::Codings })
}

fn content_length(head: &mut Head) -> Result<Option<u64>, HeadFault> {
    let mut values = head.all(FieldId::ContentLength);
    let Some(first) = values.next() else { return Ok(None) };
    let length = digits(first).ok_or(HeadFault::ContentLength)?;
    let mut repeated = false;
    for other in values {
        repeated = true;
        match digits(other) {
            None => return Err(HeadFault::ContentLength),
            Some(other) if other != length => return Err(HeadFault::ContentLengths),
            Some(_) => {}
        }
    }
    // Written as a plain number, once: `010` could be read as 8.
    if repeated || (first.len() > 1 && first[0] == b'0') {
        head.set(FieldId::ContentLength, length.to_string());
    }
    Ok(Some(length))
}

/// Parses digits only, up to [`MOST_BYTES`].
fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |total: u64, byte: &u8| {
        total
            .checked_mul(10)?
            .checked_add(u64::from(byte - b'0'))
            .filter(|total| *total <= MOST_BYTES)
    };
    value.iter().try_fold(0, digit)
}
