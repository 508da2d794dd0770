//! Downloads: payload that is counted and thrown away as it comes, without waiting for whole frames.

use std::{
    future::poll_fn,
    mem,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;

use super::{
    Closure, Message, WebSocket,
    frame::{Header, Opcode},
    websocket::{Event, READ, malformed},
};
use crate::stats::Failure;

impl WebSocket {
    /// Waits for payload and throws it away: returns how many bytes it was, or the server's close
    /// frame. For downloads that are to cost little here. Not to be called amid a message that
    /// [`WebSocket::next`] has begun.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::next`].
    pub(crate) async fn skim(&mut self) -> Result<Result<usize, Closure>, Failure> {
        poll_fn(|cx| self.poll_skim(cx)).await
    }

    fn poll_skim(&mut self, cx: &mut Context<'_>) -> Poll<Result<Result<usize, Closure>, Failure>> {
        self.poll_flush(cx)?;
        // Frames that an earlier read has left.
        if !self.pending.is_empty() {
            let left = mem::take(&mut self.pending);
            match self.skim_bytes(cx, &left)? {
                Ok(0) => {}
                skimmed => return Poll::Ready(Ok(skimmed)),
            }
        }
        READ.with_borrow_mut(|scratch| {
            loop {
                // What is left now is at most a control frame without its end.
                let left = self.pending.len();
                let fresh = ready!(self.poll_fill(cx, &mut scratch[left..]))?.len();
                scratch[..left].copy_from_slice(&self.pending);
                self.pending = BytesMut::new();
                match self.skim_bytes(cx, &scratch[..left + fresh])? {
                    Ok(0) => {}
                    skimmed => return Poll::Ready(Ok(skimmed)),
                }
            }
        })
    }

    /// Counts the payload in `input`, up to a close frame; keeps what comes behind that, or is not
    /// whole.
    fn skim_bytes(
        &mut self,
        cx: &mut Context<'_>,
        mut input: &[u8],
    ) -> Result<Result<usize, Closure>, Failure> {
        let mut counted = 0;
        loop {
            let skipped = self.skipping.min(input.len() as u64) as usize;
            self.skipping -= skipped as u64;
            counted += skipped;
            input = &input[skipped..];
            match Header::parse(input).map_err(malformed)? {
                Some((header, start)) if !header.opcode.is_control() => {
                    self.skipping = header.len;
                    input = &input[start..];
                }
                Some((header, _)) if header.opcode != Opcode::Close || counted == 0 => {
                    match self.read_frame(cx, input)? {
                        Some((_, Event::Message(Message::Close(closure)))) => {
                            return Ok(Err(closure));
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
