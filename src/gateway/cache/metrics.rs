//! What the cache counts.

use prometheus_client::metrics::counter::Counter;

/// Metrics of stored responses.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheMetrics {
    /// Requests that a fresh response has answered.
    pub(crate) hits: Counter,
    /// Requests that a stale response has answered.
    pub(crate) stale: Counter,
    /// Requests that a stored response has answered after the backend confirmed it.
    pub(crate) revalidated: Counter,
    /// Requests that the backend has answered, or should have.
    pub(crate) misses: Counter,
    /// Requests that waited for the response to another one.
    pub(crate) waits: Counter,
    /// Stale responses that are renewed after the reply.
    pub(crate) renewals: Counter,
    /// Responses stored or renewed.
    pub(crate) stored: Counter,
    /// URLs whose responses made room in memory.
    pub(crate) evicted: Counter,
    /// URLs whose responses made room on disk.
    pub(crate) disk_evicted: Counter,
    /// Responses that were written to disk.
    pub(crate) disk_written: Counter,
    /// Responses that were not written because the queue was full.
    pub(crate) disk_dropped: Counter,
    /// Responses that could not be written.
    pub(crate) disk_failed: Counter,
    /// Commands that removed responses.
    pub(crate) purges: Counter,
}
