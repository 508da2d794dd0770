//! Why a backend is down or ejected, and since when: for operators.
//!
//! Written when a check fails or health changes, and read on demand. Successful requests do not use
//! this.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// Details about the health of a backend.
#[derive(Debug)]
pub struct Diagnosis(Mutex<Notes>);

#[derive(Debug)]
struct Notes {
    since: SystemTime,
    last_failure: Option<CheckFailure>,
    /// Why the last probe failed; `None` if it succeeded.
    last_probe: Option<Arc<str>>,
    ejection: Option<&'static str>,
}

/// A failed check.
#[derive(Clone, Debug)]
pub struct CheckFailure {
    /// When it failed.
    pub at: SystemTime,
    /// What was expected, and what happened.
    pub reason: Arc<str>,
}

impl Diagnosis {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Notes {
            since: SystemTime::now(),
            last_failure: None,
            last_probe: None,
            ejection: None,
        }))
    }

    /// Records a failed check.
    pub fn failed(&self, reason: &str) {
        self.lock().failed(reason);
    }

    /// Records the result of a probe. Returns whether it failed for another reason than the probe before.
    pub fn probed(&self, result: Result<(), &str>) -> bool {
        let mut notes = self.lock();
        let Err(reason) = result else {
            notes.last_probe = None;
            return false;
        };
        let failure = notes.failed(reason);
        let before = notes.last_probe.replace(Arc::clone(&failure));
        before.is_none_or(|before| before != failure)
    }

    /// Records that the backend has gone up or down.
    pub(super) fn changed(&self) {
        self.lock().since = SystemTime::now();
    }

    /// Records why the backend is ejected.
    pub fn ejected(&self, reason: &'static str) {
        self.lock().ejection = Some(reason);
    }

    /// Since when the backend has been up or down.
    pub fn since(&self) -> SystemTime {
        self.lock().since
    }

    /// The last check that failed, also while the backend is up.
    pub fn last_failure(&self) -> Option<CheckFailure> {
        self.lock().last_failure.clone()
    }

    /// Why the backend was ejected last.
    pub fn ejection(&self) -> Option<&'static str> {
        self.lock().ejection
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    fn failed(&mut self, reason: &str) -> Arc<str> {
        let same = self.last_failure.take().filter(|last| *last.reason == *reason);
        let reason = same.map_or_else(|| Arc::from(reason), |last| last.reason);
        self.last_failure =
            Some(CheckFailure { at: SystemTime::now(), reason: Arc::clone(&reason) });
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_reports_a_failure_only_if_its_reason_changed() {
        let diagnosis = Diagnosis::new();
        assert!(diagnosis.probed(Err("refused")), "the first");
        assert!(!diagnosis.probed(Err("refused")), "the same reason");
        diagnosis.failed("a request");
        assert!(!diagnosis.probed(Err("refused")), "a failed request is not a probe");
        assert!(diagnosis.probed(Err("timed out")));
        assert!(
            !diagnosis.probed(Ok(())) && diagnosis.probed(Err("timed out")),
            "fails again after a success"
        );
        diagnosis.failed("a request");
        assert_eq!(&*diagnosis.last_failure().unwrap().reason, "a request");
    }
}
