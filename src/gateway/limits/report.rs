//! The fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).

use std::{fmt::Write as _, sync::Arc};

use moorline_http::{FieldId, Head};

use super::Limiter;
use crate::config::LimitFields;

/// Fields that a page of another origin may read in a refusal.
const READABLE: &str = "Retry-After, RateLimit, RateLimit-Policy, X-Request-Id";

/// What a response says about a limit.
#[derive(Debug)]
pub(crate) struct LimitReport {
    limiter: Arc<Limiter>,
    left: PolicyState,
}

/// What is left of each part of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PolicyState {
    /// Tokens, and the seconds until the bucket is full.
    pub(super) rate: Option<(u32, u32)>,
    /// Requests in the period, and the seconds until the next one.
    pub(super) quota: Option<(u32, u32)>,
    /// Requests that may begin now.
    pub(super) concurrent: Option<u32>,
}

impl Limiter {
    /// Returns the report of a limit, if responses of this kind have it.
    pub(super) fn report(
        self: &Arc<Self>,
        left: PolicyState,
        refused: bool,
    ) -> Option<LimitReport> {
        let wanted = match self.config.fields {
            LimitFields::Always => true,
            LimitFields::Refusals => refused,
            LimitFields::Never => false,
        };
        let says = left != PolicyState::default();
        (wanted && says).then(|| LimitReport { limiter: Arc::clone(self), left })
    }
}

impl LimitReport {
    /// Writes the fields of several reports.
    pub(in crate::gateway) fn write(reports: &[Self], head: &mut Head) {
        if reports.is_empty() {
            return;
        }
        let (mut policies, mut states) = (String::new(), String::new());
        for report in reports {
            report.list(&mut policies, &mut states);
        }
        head.append_named("RateLimit-Policy", policies);
        head.append_named("RateLimit", states);
    }

    /// Lets a page of another origin read why it was refused.
    pub(in crate::gateway) fn expose(head: &mut Head) {
        if head.has(FieldId::AccessControlAllowOrigin) {
            head.set_named("Access-Control-Expose-Headers", READABLE);
        }
    }

    /// Appends the items of this limit. Names have no characters that need quoting.
    fn list(&self, policies: &mut String, states: &mut String) {
        let config = &self.limiter.config;
        let mut item =
            |suffix: &str, policy: std::fmt::Arguments<'_>, left: u32, reset: Option<u32>| {
                for list in [&mut *policies, &mut *states] {
                    if !list.is_empty() {
                        list.push_str(", ");
                    }
                    // Writing to a string cannot fail.
                    let _ = write!(list, "\"{}{suffix}\"", config.name);
                }
                let _ = write!(policies, "{policy}");
                let _ = write!(states, ";r={left}");
                if let Some(reset) = reset {
                    let _ = write!(states, ";t={reset}");
                }
            };
        if let (Some(bucket), Some((left, reset))) = (&self.limiter.bucket, self.left.rate) {
            let (quota, window) = (bucket.burst(), bucket.window());
            item("", format_args!(";q={quota};w={window}"), left, Some(reset));
        }
        if let (Some(quota), Some((left, reset))) = (config.quota, self.left.quota) {
            let suffix = if quota.period == 3600 { "-hourly" } else { "-daily" };
            let (times, period) = (quota.times, quota.period);
            item(suffix, format_args!(";q={times};w={period}"), left, Some(reset));
        }
        if let (Some(most), Some(left)) = (config.concurrent, self.left.concurrent) {
            let policy = format_args!(";q={most};qu=\"concurrent-requests\"");
            item("-concurrent", policy, left, None);
        }
    }
}
