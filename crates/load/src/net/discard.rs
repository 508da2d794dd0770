//! Downloads: counts payload and discards it as it arrives, without waiting for complete frames.

use std::{
    future::poll_fn,
    mem,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;

use super::{
    CloseFrame, Message, WebSocket,
    frame::{Header, Opcode},
    websocket::{Event, READ_BUFFER, malformed},
};
use crate::stats::Failure;

impl WebSocket {
    /// Waits for payload and discards it. Returns its length, or the server's close frame. Saves CPU time in
    /// downloads. Must not be called in the middle of a message that [`WebSocket::next`] has begun.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::next`].
    pub(crate) async fn discard_payload(&mut self) -> Result<Result<usize, CloseFrame>, Failure> {
        poll_fn(|cx| self.poll_discard(cx)).await
    }

    fn poll_discard(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Result<usize, CloseFrame>, Failure>> {
        self.poll_flush(cx)?;
        // Frames from an earlier read.
        if !self.pending.is_empty() {
            let left = mem::take(&mut self.pending);
            match self.discard_bytes(cx, &left)? {
                Ok(0) => {}
                discarded => return Poll::Ready(Ok(discarded)),
            }
        }
        READ_BUFFER.with_borrow_mut(|scratch| {
            loop {
                // The rest is at most an incomplete control frame.
                let left = self.pending.len();
                let fresh = ready!(self.poll_fill(cx, &mut scratch[left..]))?.len();
                scratch[..left].copy_from_slice(&self.pending);
                self.pending = BytesMut::new();
                match self.discard_bytes(cx, &scratch[..left + fresh])? {
                    Ok(0) => {}
                    discarded => return Poll::Ready(Ok(discarded)),
                }
            }
        })
    }

    /// Counts the payload in `input`, up to a close frame. Keeps what follows, or is incomplete.
    fn discard_bytes(
        &mut self,
        cx: &mut Context<'_>,
        mut input: &[u8],
    ) -> Result<Result<usize, CloseFrame>, Failure> {
        let mut counted = 0;
        loop {
            let skipped = self.discarding.min(input.len() as u64) as usize;
            self.discarding -= skipped as u64;
            counted += skipped;
            input = &input[skipped..];
            match Header::parse(input).map_err(malformed)? {
                Some((header, start)) if !header.opcode.is_control() => {
                    self.discarding = header.len;
                    input = &input[start..];
                }
                Some((header, _)) if header.opcode != Opcode::Close || counted == 0 => {
                    match self.read_frame(cx, input)? {
                        Some((_, Event::Message(Message::Close(close_frame)))) => {
                            return Ok(Err(close_frame));
                        }
                        Some((used, _)) => input = &input[used..],
                        None => break,
                    }
                }
                _ => break,
            }
        }
        self.pending.extend_from_slice(input);
        Ok(Ok(counted))
    }
}
