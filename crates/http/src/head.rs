//! The header fields of a message: the bytes as they were received, and an index of them.
//!
//! Reading a field is a slice of those bytes. A change drops a field or appends one; unchanged fields are
//! never copied before they are written to the other side, with the case of their names.

use std::fmt;

use super::{
    buffer::Buffer,
    fault::HeadFault,
    field::{self, FieldId, is_token, is_value, trim},
};

/// Limits of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Maximum size in bytes, with the first line.
    pub size: usize,
    /// Maximum number of fields.
    pub fields: usize,
}

/// Finds the end of a head in bytes that arrive piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadScan {
    /// Bytes that were searched.
    searched: usize,
    /// Start of the current line.
    line: usize,
}

impl HeadScan {
    /// Returns the length of the head, with its empty line; `None` if it is not complete. `bytes` are all bytes of
    /// the head so far.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadFault> {
        while let Some(at) = memchr::memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + at;
            if end == self.line || bytes[end - 1] != b'\r' {
                return Err(HeadFault::LineEnd);
            }
            let empty = end == self.line + 1;
            (self.searched, self.line) = (end + 1, end + 1);
            if empty {
                return Ok(Some(end + 1));
            }
        }
        self.searched = bytes.len();
        Ok(None)
    }

    /// Whether the first line is still incomplete.
    pub(crate) fn in_first_line(self) -> bool {
        self.line == 0
    }
}

/// A head that is not accepted, and its bytes.
pub(crate) type Rejected = (HeadFault, Buffer);

/// Place of one field in the bytes of its head.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Start of the line.
    start: u32,
    value: u32,
    value_end: u32,
    /// End of the line, after its CRLF.
    end: u32,
    name_len: u16,
    id: FieldId,
    dropped: bool,
    /// The line is exactly the name, a colon, one space, the value and CRLF.
    plain: bool,
}

/// One field of a head.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// The field, if it is a known one.
    pub id: FieldId,
    /// The name as it was sent.
    pub name: &'a [u8],
    /// The value without surrounding spaces.
    pub value: &'a [u8],
}

/// The first line and the fields of a message.
pub struct Head {
    bytes: Buffer,
    slots: Vec<Slot>,
    /// Which known fields may be present, as bits.
    present: u64,
    /// Length of the first line, with its CRLF.
    first_line: usize,
}

thread_local! {
    static FREE_SLOTS: std::cell::RefCell<Vec<Vec<Slot>>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Clone for Head {
    fn clone(&self) -> Self {
        let mut slots = FREE_SLOTS.with_borrow_mut(Vec::pop).unwrap_or_default();
        slots.clear();
        slots.extend_from_slice(&self.slots);
        let mut bytes = Buffer::new();
        bytes.push(self.bytes.filled());
        Self { bytes, slots, present: self.present, first_line: self.first_line }
    }
}

/// Lists of slots that a thread keeps.
const MOST_FREE: usize = 8;

impl Head {
    /// Parses the fields of a complete head; `bytes` holds the head alone, and `first_line` is the length of its
    /// first line with CRLF.
    pub(crate) fn parse(
        bytes: Buffer,
        first_line: usize,
        most_fields: usize,
    ) -> Result<Self, Rejected> {
        let slots = FREE_SLOTS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(32));
        let mut head = Self { bytes, slots, present: 0, first_line };
        match head.index(most_fields) {
            Ok(()) => Ok(head),
            Err(fault) => Err((fault, std::mem::take(&mut head.bytes))),
        }
    }

    /// Creates a head without fields.
    pub(crate) fn empty() -> Self {
        let slots = FREE_SLOTS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(32));
        Self { bytes: Buffer::new(), slots, present: 0, first_line: 0 }
    }

    fn index(&mut self, most_fields: usize) -> Result<(), HeadFault> {
        let bytes = self.bytes.filled();
        // Heads are far below 4 GiB.
        let offset = |at: usize| u32::try_from(at).map_err(|_| HeadFault::TooLarge);
        let mut start = self.first_line;
        loop {
            let line = &bytes[start..];
            let end = memchr::memchr(b'\n', line).ok_or(HeadFault::LineEnd)?;
            let line = line[..end].strip_suffix(b"\r").ok_or(HeadFault::LineEnd)?;
            if line.is_empty() {
                return Ok(());
            }
            if self.slots.len() == most_fields {
                return Err(HeadFault::TooManyFields);
            }
            let name_len = name_length(line)?;
            let id = FieldId::of(&line[..name_len]);
            let value = trim(&line[name_len + 1..]);
            if !is_value(value) {
                return Err(HeadFault::Value);
            }
            let skipped =
                line[name_len + 1..].iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
            let value_start = if value.is_empty() {
                start + name_len + 1
            } else {
                start + name_len + 1 + skipped.count()
            };
            self.present |= id.bit();
            self.slots.push(Slot {
                start: offset(start)?,
                value: offset(value_start)?,
                value_end: offset(value_start + value.len())?,
                end: offset(start + end + 1)?,
                name_len: u16::try_from(name_len).map_err(|_| HeadFault::TooLarge)?,
                id,
                dropped: false,
                plain: value_start == start + name_len + 2
                    && line[name_len + 1] == b' '
                    && line.len() == name_len + 2 + value.len(),
            });
            start += end + 1;
        }
    }

    /// Returns the first line without CRLF.
    pub(crate) fn first_line(&self) -> &[u8] {
        let line = &self.bytes.filled()[..self.first_line];
        line.strip_suffix(b"\r\n").unwrap_or(line)
    }

    /// Returns the bytes.
    pub(crate) fn into_bytes(mut self) -> Buffer {
        std::mem::take(&mut self.bytes)
    }

    /// Size of the head as it was received, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the fields in order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.slots.iter().filter(|slot| !slot.dropped).map(|slot| self.field(slot))
    }

    fn field(&self, slot: &Slot) -> Field<'_> {
        let bytes = self.bytes.filled();
        let start = slot.start as usize;
        Field {
            id: slot.id,
            name: &bytes[start..start + usize::from(slot.name_len)],
            value: &bytes[slot.value as usize..slot.value_end as usize],
        }
    }

    /// Whether a known field is present.
    pub fn has(&self, id: FieldId) -> bool {
        self.present & id.bit() != 0
    }

    /// Returns the first value of a known field.
    pub fn get(&self, id: FieldId) -> Option<&[u8]> {
        self.all(id).next()
    }

    /// Returns the first value of a known field if it is UTF-8.
    pub fn text(&self, id: FieldId) -> Option<&str> {
        std::str::from_utf8(self.get(id)?).ok()
    }

    /// Returns the value of a known field that is present exactly once.
    pub fn only(&self, id: FieldId) -> Option<&[u8]> {
        let mut values = self.all(id);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// Returns all values of a known field, in order.
    pub fn all(&self, id: FieldId) -> impl Iterator<Item = &[u8]> {
        let slots: &[Slot] = if self.has(id) { &self.slots } else { &[] };
        let slots = slots.iter().filter(move |slot| slot.id == id && !slot.dropped);
        slots.map(|slot| self.field(slot).value)
    }

    /// Returns all values of the field with this name, in any case.
    pub fn named<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let is_it = move |field: &Field<'_>| field.name.eq_ignore_ascii_case(name.as_bytes());
        self.fields().filter(is_it).map(|field| field.value)
    }

    /// Returns the elements of a comma-separated field, over all its lines, without empty ones.
    pub fn tokens(&self, id: FieldId) -> impl Iterator<Item = &[u8]> {
        let elements = self.all(id).flat_map(|value| value.split(|byte| *byte == b','));
        elements.map(trim).filter(|element| !element.is_empty())
    }

    /// Whether a list field contains this token, in any case.
    pub fn has_token(&self, id: FieldId, token: &str) -> bool {
        self.tokens(id).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Drops a known field.
    pub fn remove(&mut self, id: FieldId) {
        if !self.has(id) || id == FieldId::Other {
            return;
        }
        self.slots.iter_mut().filter(|slot| slot.id == id).for_each(|slot| slot.dropped = true);
        self.present &= !id.bit();
    }

    /// Drops the fields with this name, in any case.
    pub fn remove_named(&mut self, name: &[u8]) {
        match FieldId::of(name) {
            FieldId::Other => self.retain(|field| !field.name.eq_ignore_ascii_case(name)),
            id => self.remove(id),
        }
    }

    /// Drops all fields except those for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let mut present = 0;
        for at in 0..self.slots.len() {
            let slot = self.slots[at];
            if slot.dropped {
                continue;
            }
            let kept = keep(self.field(&slot));
            self.slots[at].dropped = !kept;
            present |= if kept { slot.id.bit() } else { 0 };
        }
        self.present = present;
    }

    /// Appends a known field. A value that no field may have is ignored.
    pub fn append(&mut self, id: FieldId, value: impl AsRef<[u8]>) {
        if id != FieldId::Other && is_value(value.as_ref()) {
            self.add_field(id, id.line_start(), value.as_ref());
        }
    }

    /// Replaces all lines of a known field by one. An invalid value drops the field.
    pub fn set(&mut self, id: FieldId, value: impl AsRef<[u8]>) {
        self.remove(id);
        self.append(id, value);
    }

    /// Appends a known field whose value is written in place, by appending bytes. An invalid value is ignored.
    pub fn append_with(&mut self, id: FieldId, write: impl FnOnce(&mut Buffer)) {
        let start = self.bytes.len();
        self.bytes.push(id.line_start().as_bytes());
        let value_start = self.bytes.len();
        write(&mut self.bytes);
        let is_valid =
            id != FieldId::Other && self.bytes.filled().get(value_start..).is_some_and(is_value);
        if !is_valid || !self.add_line(id, start, id.name().len()) {
            self.bytes.truncate(start);
        }
    }

    /// Replaces all lines of a known field by one whose value is written in place. An invalid value drops the field.
    pub fn set_with(&mut self, id: FieldId, write: impl FnOnce(&mut Buffer)) {
        self.remove(id);
        self.append_with(id, write);
    }

    /// Replaces all lines of a known field by one with a formatted value. An invalid value drops the field.
    pub fn set_fmt(&mut self, id: FieldId, value: fmt::Arguments<'_>) {
        self.set_with(id, |out| {
            // Writing to a buffer cannot fail.
            let _ = fmt::Write::write_fmt(out, value);
        });
    }

    /// Appends a field by name. A name that is not a token, and an invalid value, are ignored.
    pub fn append_named(&mut self, name: &str, value: impl AsRef<[u8]>) {
        if is_token(name.as_bytes()) && is_value(value.as_ref()) {
            self.add_field(FieldId::of(name.as_bytes()), &format!("{name}: "), value.as_ref());
        }
    }

    /// Replaces all lines of the field with this name by one.
    pub fn set_named(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove_named(name.as_bytes());
        self.append_named(name, value);
    }

    /// Adds a field with a valid name, given with its colon and space, and a valid value.
    fn add_field(&mut self, id: FieldId, line_start: &str, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.push(line_start.as_bytes());
        self.bytes.push(value);
        if !self.add_line(id, start, line_start.len() - 2) {
            self.bytes.truncate(start);
        }
    }

    /// Ends the line of a field that begins at `start`, and adds the field; false if the head is too large.
    fn add_line(&mut self, id: FieldId, start: usize, name_len: usize) -> bool {
        let value_end = self.bytes.len();
        let (Ok(name_len), Ok(end)) = (u16::try_from(name_len), u32::try_from(value_end + 2))
        else {
            return false;
        };
        self.bytes.push(b"\r\n");
        self.present |= id.bit();
        // All offsets are below `end`.
        let start = start as u32;
        self.slots.push(Slot {
            start,
            value: start + u32::from(name_len) + 2,
            value_end: value_end as u32,
            end,
            name_len,
            id,
            dropped: false,
            plain: true,
        });
        true
    }

    /// Writes the lines of all fields, in order.
    pub(crate) fn write_fields(&self, out: &mut Buffer) {
        let bytes = self.bytes.filled();
        let mut run = 0..0;
        for slot in self.slots.iter().filter(|slot| !slot.dropped) {
            if !slot.plain {
                // Spaces around the value are not passed on: the next hop could read them differently.
                out.push(&bytes[std::mem::take(&mut run)]);
                let Field { name, value, .. } = self.field(slot);
                [name, b": ", value, b"\r\n"].into_iter().for_each(|part| out.push(part));
                continue;
            }
            let (start, end) = (slot.start as usize, slot.end as usize);
            if start != run.end {
                out.push(&bytes[run.clone()]);
                run.start = start;
            }
            run.end = end;
        }
        out.push(&bytes[run]);
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        // Fails only while the thread ends.
        let _ = FREE_SLOTS.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < MOST_FREE && slots.capacity() <= 128 {
                free.push(slots);
            }
        });
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for Field { name, value, .. } in self.fields() {
            map.entry(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
        }
        map.finish()
    }
}

/// Returns the length of the name at the beginning of a line.
fn name_length(line: &[u8]) -> Result<usize, HeadFault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(HeadFault::Folded);
    }
    let length = line.iter().take_while(|byte| field::is_token_byte(**byte)).count();
    match line.get(length) {
        Some(b':') if length > 0 => Ok(length),
        _ => Err(name_fault(line)),
    }
}

fn name_fault(line: &[u8]) -> HeadFault {
    let Some(colon) = memchr::memchr(b':', line) else { return HeadFault::NoColon };
    match line[..colon] {
        [.., b' ' | b'\t'] => HeadFault::SpaceBeforeColon,
        _ => HeadFault::Name,
    }
}

#[cfg(test)]
mod tests;
