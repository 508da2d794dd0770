//! Calls of rustls's state machine.

use std::io;

use moorline_http::Buffer;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError};
use tokio::io::ReadBuf;

use super::{TlsSession, TlsStream, buffer_for};

/// What a call is for.
pub(super) enum CallPurpose<'a> {
    /// Process received records.
    Receive,
    /// Encrypt application data.
    Encrypt(&'a [u8]),
    /// Encrypt a `close_notify`.
    CloseNotify,
}

/// Outcome of a call.
pub(super) enum CallOutcome {
    /// Another call continues.
    Continue,
    /// Application data has been decrypted.
    Data,
    /// The purpose is fulfilled.
    Done,
    /// The handshake needs more records.
    Blocked,
    /// Both sides have closed the session.
    Closed,
}

impl<S: TlsSession, T> TlsStream<S, T> {
    /// Processes the records of the handshake that have arrived.
    pub(super) fn process_handshake(&mut self) -> io::Result<()> {
        self.check()?;
        let mut no_room = ReadBuf::new(&mut []);
        loop {
            match self.call(&mut no_room, &CallPurpose::Receive)? {
                CallOutcome::Continue => {}
                CallOutcome::Data
                | CallOutcome::Done
                | CallOutcome::Blocked
                | CallOutcome::Closed => return Ok(()),
            }
        }
    }

    /// Decrypts received records until the reader has no room, or no complete record is left.
    pub(super) fn process_received(&mut self, room: &mut ReadBuf<'_>) -> io::Result<()> {
        while room.remaining() > 0 && self.incoming.is_some() && !self.read_closed {
            match self.call(room, &CallPurpose::Receive)? {
                CallOutcome::Continue | CallOutcome::Data => {}
                CallOutcome::Done | CallOutcome::Blocked | CallOutcome::Closed => break,
            }
        }
        self.check()
    }

    /// Appends the records of these bytes to those to send.
    pub(super) fn encrypt(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(&CallPurpose::Encrypt(bytes))
    }

    /// Appends a `close_notify` to the records to send.
    pub(super) fn write_close_notify(&mut self) -> io::Result<()> {
        match self.write(&CallPurpose::CloseNotify) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    fn write(&mut self, purpose: &CallPurpose<'_>) -> io::Result<()> {
        let mut no_room = ReadBuf::new(&mut []);
        loop {
            match self.call(&mut no_room, purpose)? {
                CallOutcome::Continue | CallOutcome::Data => {}
                CallOutcome::Done => return Ok(()),
                // Nothing can be sent before the handshake is complete, or after the session.
                CallOutcome::Blocked | CallOutcome::Closed => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
    }

    /// Calls rustls once: it processes a record, or fulfils the purpose if nothing must happen before it.
    fn call(
        &mut self,
        room: &mut ReadBuf<'_>,
        purpose: &CallPurpose<'_>,
    ) -> io::Result<CallOutcome> {
        let Self { session, incoming, plain, outgoing, read_closed, .. } = self;
        // Always all of them, also before a write: rustls counts on the bytes that it has not discarded.
        let records = incoming.as_mut().map_or(&mut [][..], |buffer| buffer.filled_mut());
        let status = session.process(records);
        let mut discard = status.discard;
        let outcome = match status.state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    discard += record.discard;
                    deliver(record.payload, room, plain);
                }
                Ok(CallOutcome::Data)
            }
            Ok(ConnectionState::EncodeTlsData(queued)) => {
                encode(queued, outgoing);
                Ok(CallOutcome::Continue)
            }
            Ok(ConnectionState::TransmitTlsData(queued)) => {
                queued.done();
                Ok(CallOutcome::Continue)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let encrypted = match purpose {
                    CallPurpose::Receive => Ok(()),
                    CallPurpose::Encrypt(bytes) => {
                        fill(outgoing, |room| traffic.encrypt(bytes, room))
                    }
                    CallPurpose::CloseNotify => {
                        fill(outgoing, |room| traffic.queue_close_notify(room))
                    }
                };
                encrypted.map(|()| CallOutcome::Done)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(CallOutcome::Blocked),
            Ok(ConnectionState::PeerClosed) => {
                *read_closed = true;
                Ok(CallOutcome::Continue)
            }
            Ok(ConnectionState::Closed) => Ok(CallOutcome::Closed),
            Ok(_) => Err(rustls::Error::General("unexpected early data".to_owned())),
            Err(error) => Err(error),
        };
        let continues = matches!(outcome, Ok(CallOutcome::Continue));
        if let Some(buffer) = incoming {
            buffer.consume(discard);
            // rustls may continue without any record.
            if *read_closed || (buffer.is_empty() && !continues) {
                *incoming = None;
            }
        }
        outcome.map_err(|error| self.fail(error))
    }

    /// Appends what rustls sends on its own account, such as an alert.
    pub(super) fn take_queued(&mut self) {
        while self.session.common().wants_write() {
            // Comes before any record.
            match self.session.process(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(queued)) => encode(queued, &mut self.outgoing),
                _ => return,
            }
        }
    }

    /// Ends the session because of an error.
    fn fail(&mut self, error: rustls::Error) -> io::Error {
        self.take_queued();
        self.incoming = None;
        let returned = invalid(error.clone());
        self.failed = Some(Box::new(error));
        returned
    }

    /// Returns the error of a failed session.
    pub(super) fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some(error) => Err(invalid(rustls::Error::clone(error))),
            None => Ok(()),
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Copies decrypted bytes to the reader, and those that it has no room for to `plain`.
fn deliver(bytes: &[u8], room: &mut ReadBuf<'_>, plain: &mut Option<Buffer>) {
    let (fitting, rest) = bytes.split_at(bytes.len().min(room.remaining()));
    room.put_slice(fitting);
    if !rest.is_empty() {
        plain.get_or_insert_with(|| buffer_for(rest.len())).push(rest);
    }
}

/// Appends a record that rustls has made.
fn encode<D>(mut queued: EncodeTlsData<'_, D>, outgoing: &mut Option<Buffer>) {
    let outgoing = outgoing.get_or_insert_default();
    loop {
        match queued.encode(outgoing.room_mut()) {
            Ok(written) => return outgoing.commit(written),
            Err(EncodeError::InsufficientSize(error)) => outgoing.reserve(error.required_size),
            Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

/// Appends the records that `write` makes.
fn fill(
    outgoing: &mut Option<Buffer>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), rustls::Error> {
    let outgoing = outgoing.get_or_insert_default();
    loop {
        match write(outgoing.room_mut()) {
            Ok(written) => {
                outgoing.commit(written);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(error)) => outgoing.reserve(error.required_size),
            Err(EncryptError::EncryptExhausted) => return Err(rustls::Error::EncryptError),
        }
    }
}
