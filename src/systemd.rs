//! The service manager: sockets that it passes, and what it is told.
//!
//! Both follow the environment that it sets (`LISTEN_FDS`, sd_listen_fds(3); `NOTIFY_SOCKET` and
//! `WATCHDOG_USEC`, sd_notify(3)); without it, nothing here does anything.

use std::{fmt, time::Duration};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::SockRef;

use crate::net::inherited::InheritedSockets;

/// The sockets that were passed. To be called once, before anything else happens: the variables are
/// taken out of the environment.
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
        tracing::warn!(place, "the service manager passed a socket that nobody can connect to");
    }
    given
}

/// Tells the service manager what this process does.
#[derive(Debug)]
pub struct Notifier {
    /// Another process is the service now, and speaks for it.
    silent: bool,
    /// This process has taken over from another one, which was the service's main process.
    succeeds: bool,
    /// The last status.
    status: String,
}

impl Notifier {
    /// Nothing is told yet.
    pub fn new(succeeds: bool) -> Self {
        Self { silent: false, succeeds, status: String::new() }
    }

    /// How often a sign of life is wanted: twice as often as it is waited for.
    pub fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|within| within / 2).filter(|every| !every.is_zero())
    }

    /// It serves, or has done what it was about to.
    pub fn ready(&mut self) {
        match std::mem::take(&mut self.succeeds) {
            true => self.tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]),
            false => self.tell(&[NotifyState::Ready]),
        }
    }

    /// It reloads; [`ready`](Self::ready) ends that.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "no time to tell of a reload"),
        }
    }

    /// It is on its way out.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// It is not stuck.
    pub fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// What it does, in a line; told where that has changed.
    pub fn status(&mut self, status: impl fmt::Display) {
        let status = status.to_string();
        if status != self.status {
            self.tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// Another process is the service from now on; this one says no more.
    pub fn hand_over(&mut self, pid: u32) {
        self.tell(&[NotifyState::MainPid(pid)]);
        self.silent = true;
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        if self.silent {
            return;
        }
        if let Err(error) = sd_notify::notify(state) {
            tracing::debug!(%error, "the service manager cannot be told");
        }
    }
}
