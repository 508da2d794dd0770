//! A reader of JSON texts that takes apart only what it is asked to. Everything else is checked, and given as it is written.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::DocumentFault;

/// Objects and arrays within each other, at most, that are taken apart. What is not taken apart may be nested deeper.
const DEEPEST: usize = 128;

/// A JSON text, and how far it has been read. The time is linear in its length.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Returns the first byte of the next value.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        let spaces = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        let spaces = spaces.count();
        self.at += spaces;
        rest.get(spaces).copied()
    }

    /// Takes a byte if it comes next.
    fn takes(&mut self, byte: u8) -> bool {
        let comes = self.peek() == Some(byte);
        self.at += usize::from(comes);
        comes
    }

    /// Takes the next value as it is written.
    pub(super) fn raw(&mut self) -> Result<&'a str, DocumentFault> {
        self.peek();
        let rest = &self.text[self.at..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&'a RawValue>();
        let Some(Ok(value)) = values.next() else { return Err(DocumentFault::NotJson) };
        self.at += value.get().len();
        Ok(value.get())
    }

    /// Takes a string.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, DocumentFault> {
        let raw = self.raw()?;
        match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
            Some(text) if !text.contains('\\') => Ok(Cow::Borrowed(text)),
            Some(_) => {
                serde_json::from_str(raw).map(Cow::Owned).map_err(|_| DocumentFault::NotJson)
            }
            None => Err(DocumentFault::NotJson),
        }
    }

    /// Takes an object. `field` gets each name, and must take the value.
    pub(super) fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), DocumentFault>,
    ) -> Result<(), DocumentFault> {
        self.list((b'{', b'}'), |scanner| {
            let name = scanner.string()?;
            match scanner.takes(b':') {
                true => field(scanner, name),
                false => Err(DocumentFault::NotJson),
            }
        })
    }

    /// Takes an array. `item` must take each value.
    pub(super) fn array(
        &mut self,
        item: impl FnMut(&mut Self) -> Result<(), DocumentFault>,
    ) -> Result<(), DocumentFault> {
        self.list((b'[', b']'), item)
    }

    fn list(
        &mut self,
        (open, close): (u8, u8),
        mut item: impl FnMut(&mut Self) -> Result<(), DocumentFault>,
    ) -> Result<(), DocumentFault> {
        if !self.takes(open) || self.depth == DEEPEST {
            return Err(DocumentFault::NotJson);
        }
        self.depth += 1;
        if !self.takes(close) {
            loop {
                item(self)?;
                if self.takes(close) {
                    break;
                }
                if !self.takes(b',') {
                    return Err(DocumentFault::NotJson);
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Ends the text: only spaces may follow.
    pub(super) fn end(mut self) -> Result<(), DocumentFault> {
        self.peek().map_or(Ok(()), |_| Err(DocumentFault::NotJson))
    }
}
