//! Why a backend is down or ejected, and since when: for operators.
//!
//! Written where a check fails and where health changes, and read on demand. A request that succeeds
//! never comes here.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// What is known of a backend's health beyond whether it is up.
#[derive(Debug)]
pub struct Diagnosis(Mutex<Notes>);

#[derive(Debug)]
struct Notes {
    since: SystemTime,
    last_failure: Option<CheckFailure>,
    /// Why the last probe failed; `None`: it did not.
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
    /// Of a backend that is new.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Notes {
            since: SystemTime::now(),
            last_failure: None,
            last_probe: None,
            ejection: None,
        }))
    }

    /// Notes a failed check.
    pub fn failed(&self, reason: &str) {
        self.lock().failed(reason);
    }

    /// Notes how a probe went. Whether it failed, and for another reason than the probe before.
    pub fn probed(&self, verdict: Result<(), &str>) -> bool {
        let mut notes = self.lock();
        let Err(reason) = verdict else {
            notes.last_probe = None;
            return false;
        };
        let failure = notes.failed(reason);
        let before = notes.last_probe.replace(Arc::clone(&failure));
        before.is_none_or(|before| before != failure)
    }

    /// Notes that the backend has come up or gone down.
    pub(super) fn changed(&self) {
        self.lock().since = SystemTime::now();
    }

    /// Notes why it is ejected.
    pub fn ejected(&self, reason: &'static str) {
        self.lock().ejection = Some(reason);
    }

    /// Since when it has been up, or down.
    pub fn since(&self) -> SystemTime {
        self.lock().since
    }

    /// The newest check that failed, also while it is up.
    pub fn last_failure(&self) -> Option<CheckFailure> {
        self.lock().last_failure.clone()
    }

    /// Why it was ejected last.
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
    fn a_probe_is_news_where_it_fails_for_another_reason_than_the_one_before() {
        let diagnosis = Diagnosis::new();
        assert!(diagnosis.probed(Err("refused")), "the first");
        assert!(!diagnosis.probed(Err("refused")), "the same");
        diagnosis.failed("a request");
        assert!(!diagnosis.probed(Err("refused")), "a request is no probe");
        assert!(diagnosis.probed(Err("timed out")));
        assert!(!diagnosis.probed(Ok(())) && diagnosis.probed(Err("timed out")), "again");
        diagnosis.failed("a request");
        assert_eq!(&*diagnosis.last_failure().unwrap().reason, "a request");
    }
}
