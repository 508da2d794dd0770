//! The service manager: sockets that it passes, and notifications to it.
//!
//! Both use the environment that it sets (`LISTEN_FDS`, sd_listen_fds(3); `NOTIFY_SOCKET` and
//! `WATCHDOG_USEC`, sd_notify(3)). Without these variables nothing happens.

use std::{fmt, time::Duration};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::SockRef;

use crate::net::inherited::InheritedSockets;

/// Returns the passed sockets. Call it once, first of all: it removes the variables from the
/// environment.
pub fn passed() -> InheritedSockets {
    let mut passed = ListenFd::from_env();
    let mut given = InheritedSockets::default();
    for place in 0..passed.len() {
        if let Ok(Some(socket)) = passed.take_tcp_listener(place) {
            let listens = SockRef::from(&socket).is_listener().unwrap_or(false);
            if listens && given.push_tcp(socket).is_ok() {
                continue;
            }
        } else if let Ok(Some(socket)) = passed.take_unix_listener(place) {
            let listens = SockRef::from(&socket).is_listener().unwrap_or(false);
            if listens && given.push_unix(socket).is_ok() {
                continue;
            }
        } else {
            // Taken only to be closed.
            let _ = passed.take_udp_socket(place).map(drop);
            let _ = passed.take_unix_datagram(place).map(drop);
        }
        tracing::warn!(
            place,
            "the service manager passed a socket that is not a listening TCP or unix socket; ignoring it"
        );
    }
    given
}

/// Notifies the service manager of the state of this process.
#[derive(Debug)]
pub struct Notifier {
    /// Another process is the service now; this one sends nothing.
    silent: bool,
    /// This process has taken over from another one, which was the service's main process.
    succeeds: bool,
    /// The last status.
    status: String,
}

impl Notifier {
    /// Sends nothing yet.
    pub fn new(succeeds: bool) -> Self {
        Self { silent: false, succeeds, status: String::new() }
    }

    /// Returns the period of watchdog notifications: half of the watchdog timeout.
    pub fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|within| within / 2).filter(|every| !every.is_zero())
    }

    /// Notifies that the process serves, or that a reload has ended.
    pub fn ready(&mut self) {
        match std::mem::take(&mut self.succeeds) {
            true => self.notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]),
            false => self.notify(&[NotifyState::Ready]),
        }
    }

    /// Notifies that a reload begins; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(error) => {
                tracing::debug!(%error, "cannot notify the service manager of a reload: no clock")
            }
        }
    }

    /// Notifies that the process shuts down.
    pub fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
    }

    /// Sends a watchdog notification.
    pub fn alive(&self) {
        self.notify(&[NotifyState::Watchdog]);
    }

    /// Sends the status line if it has changed.
    pub fn status(&mut self, status: impl fmt::Display) {
        let status = status.to_string();
        if status != self.status {
            self.notify(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// Names another process as the main process. This one sends nothing afterwards.
    pub fn hand_over(&mut self, pid: u32) {
        self.notify(&[NotifyState::MainPid(pid)]);
        self.silent = true;
    }

    fn notify(&self, state: &[NotifyState<'_>]) {
        if self.silent {
            return;
        }
        if let Err(error) = sd_notify::notify(state) {
            tracing::debug!(%error, "cannot notify the service manager");
        }
    }
}
