//! Health of a backend: checks, ejection, and since when it has not responded.

use std::{sync::PoisonError, time::Instant};

use super::{Backend, Transition};
use crate::upstream::{balance::Selector, diagnosis::Diagnosis, outlier::EjectionReason};

impl Backend {
    /// Whether its health checks succeed.
    pub fn is_up(&self) -> bool {
        self.load.is_up()
    }

    /// Since when the backend has been down; `None` while it is up.
    pub fn down_since(&self) -> Option<Instant> {
        *self.down_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the backend is down or ejected, and since when.
    pub fn diagnosis(&self) -> &Diagnosis {
        &self.diagnosis
    }

    /// Whether the backend is ejected for failures under traffic.
    pub fn is_ejected(&self) -> bool {
        self.load.is_ejected()
    }

    /// When the ejection ends; `None` if the backend is not ejected.
    pub fn ejected_until(&self) -> Option<Instant> {
        self.recovery.ejected_until()
    }

    /// Whether its health is ignored because too few backends of its pool are healthy.
    pub fn is_health_ignored(&self) -> bool {
        self.load.is_health_ignored()
    }

    /// Counts one health check or connection attempt. The backend goes up after `rise` successes in a
    /// row and down after `fall` failures; each transition is returned once. Going down drops the idle
    /// connections.
    pub fn record_check(&self, healthy: bool, rise: u32, fall: u32) -> Option<Transition> {
        // A success matters here only to a backend that is down: failures before it must not
        // keep the backend down. While the backend is up, traffic may find what probes do not.
        if !healthy || !self.is_up() {
            self.responsiveness.record_check(Instant::now());
        }
        let transition = self.load.record_check(healthy, rise, fall)?;
        self.diagnosis.changed();
        if let Some(membership) = self.membership.load().as_ref() {
            self.recovery.health_changed(&self.load, &membership.threshold, Instant::now());
        }
        self.notify_selector(Selector::state_changed);
        if let Some(membership) = self.membership.load().as_ref() {
            membership.threshold.evaluate();
        }
        self.open_or_close_idle();
        // Reads the present state: another transition may have overtaken this one.
        let mut since = self.down_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if self.is_up() { None } else { since.or_else(|| Some(Instant::now())) };
        Some(transition)
    }

    /// Counts a failure under traffic as a failed check. `began` is when the attempt began; failures
    /// that overlap in time count once.
    pub fn record_failure(&self, began: Instant, rise: u32, fall: u32) -> Option<Transition> {
        if !self.responsiveness.counts(began, Instant::now()) {
            return None;
        }
        self.record_check(false, rise, fall)
    }

    /// Records that an attempt that began at `began` got no response.
    pub fn record_no_response(&self, began: Instant) {
        self.responsiveness.record_no_response(began);
    }

    /// Records that the backend responded at this moment.
    pub fn record_response(&self, now: Instant) {
        self.responsiveness.record_response(now);
    }

    /// Records that its host accepts connections; the process behind may still be unresponsive.
    pub fn record_connect(&self) {
        self.responsiveness.record_connect();
    }

    /// Whether the backend sent nothing on any connection from `from` until shortly before `to`.
    pub fn was_unresponsive(&self, from: Instant, to: Instant) -> bool {
        self.responsiveness.was_unresponsive(from, to)
    }

    /// When the first attempt of those without a response began; `None` if the backend responds.
    pub fn unresponsive_since(&self) -> Option<Instant> {
        self.responsiveness.unresponsive_since()
    }

    /// Counts the outcome of a request. Returns the reason if this ejects the backend.
    pub fn record_outcome(&self, failed: bool) -> Option<EjectionReason> {
        let membership = self.membership.load();
        let membership = membership.as_ref()?;
        membership.threshold.outlier()?;
        let member = (&*self.load, &*membership.threshold, membership.index);
        self.recovery.record_outcome(failed, member, Instant::now())
    }
}
