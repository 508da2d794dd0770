//! Metric names without [`PREFIX`](super::PREFIX) and without the `_total` that the text format adds to counters.

/// Streams that ended, by listener and termination.
pub const STREAMS: &str = "streams";
/// Streams that ended, by listener and how their backend was chosen.
pub const CHOSEN: &str = "chosen";
/// Connections accepted, by listener.
pub const ACCEPTED: &str = "accepted";
/// Connections open, by listener.
pub const CONNECTIONS: &str = "connections";
/// Tunnels open, by listener.
pub const TUNNELS: &str = "tunnels";
/// TLS handshakes that succeeded, by listener and whether a session was resumed.
pub const HANDSHAKES: &str = "tls_handshakes";
/// Bytes relayed, by listener and direction.
pub const BYTES: &str = "bytes";
/// Pauses of accepting because descriptors or memory are exhausted.
pub const ACCEPT_PAUSES: &str = "accept_pauses";
/// Client connections open, of the whole process.
pub const CLIENT_CONNECTIONS: &str = "client_connections";
/// Maximum of open client connections.
pub const CLIENT_CONNECTIONS_MAX: &str = "client_connections_max";
/// Pauses of accepting because the maximum of client connections is open.
pub const CONNECTION_LIMIT_PAUSES: &str = "connection_limit_pauses";
/// TLS handshakes with clients in progress.
pub const HANDSHAKES_IN_PROGRESS: &str = "tls_handshakes_in_progress";
/// TLS handshakes with clients that wait for their turn.
pub const HANDSHAKES_WAITING: &str = "tls_handshakes_waiting";
/// Access-log lines lost to a slow or failing sink.
pub const ACCESS_LOG_DROPPED: &str = "access_log_dropped";
/// Process-log lines lost to a slow or failing standard error.
pub const PROCESS_LOG_DROPPED: &str = "process_log_dropped";
/// Tasks that panicked.
pub const PANICS: &str = "panics";
/// Times that a worker of the runtime was stuck in one task.
pub const STALLS: &str = "worker_stalls";
/// Workers of the runtime that are stuck in one task.
pub const STALLED_WORKERS: &str = "workers_stalled";
/// Reloads, by result.
pub const RELOADS: &str = "reloads";
/// Owner searches, by result.
pub const OWNER_SEARCHES: &str = "owner_searches";
/// Requests tried again, on another backend or a new connection.
pub const RETRIES: &str = "retries";
/// Backends ejected for failures under traffic, by reason.
pub const EJECTIONS: &str = "ejections";
/// New sessions that waited for admission or were refused it, by result.
pub const ADMISSION: &str = "admission";
/// Copies of requests for other pools, by result.
pub const MIRROR: &str = "mirror";
/// New sessions without a cookie whose client had a recent session, by result.
pub const MEMORY: &str = "memory";
/// Requests for responses that may be stored, by what the cache did.
pub const CACHE_REQUESTS: &str = "cache_requests";
/// Requests that waited for the response to another one.
pub const CACHE_WAITS: &str = "cache_waits";
/// Stale responses that are renewed after the reply.
pub const CACHE_RENEWALS: &str = "cache_renewals";
/// Responses stored or renewed.
pub const CACHE_STORED: &str = "cache_stored";
/// URLs whose stored responses made room for others, by store.
pub const CACHE_EVICTIONS: &str = "cache_evictions";
/// Commands that removed stored responses.
pub const CACHE_PURGES: &str = "cache_purges";
/// Bytes that stored responses use, by store.
pub const CACHE_BYTES: &str = "cache_bytes";
/// URLs with stored responses, by store.
pub const CACHE_ENTRIES: &str = "cache_entries";
/// Responses for the disk, by result.
pub const CACHE_DISK_WRITES: &str = "cache_disk_writes";
/// ACME certificate orders, by result.
pub const ACME_ORDERS: &str = "acme_orders";
/// Expiry time of a certificate, in seconds of Unix time, by listener and the certificate's
/// first name.
pub const CERTIFICATE_EXPIRY: &str = "certificate_expiry_seconds";
/// Whether a backend is ejected, by pool and backend.
pub const BACKEND_EJECTED: &str = "backend_ejected";
/// Fraction of a backend's weight that is used during slow start, 0 to 1, by pool and backend.
pub const BACKEND_RAMP: &str = "backend_weight_share";
/// Connections to a backend that are in use, tunnels included, by pool and backend.
pub const BACKEND_CONNECTIONS: &str = "backend_connections";
/// Requests that wait for a connection to a backend, by pool and backend.
pub const BACKEND_PENDING: &str = "backend_pending_requests";
/// New sessions that wait for a backend to admit them, by pool and backend.
pub const BACKEND_WAITING: &str = "backend_waiting_sessions";
/// Whether a backend is up, by pool and backend.
pub const BACKEND_UP: &str = "backend_up";
/// Whether a backend is draining, by pool and backend.
pub const BACKEND_DRAINING: &str = "backend_draining";
/// Live sessions and tunnels of a backend, by pool and backend.
pub const BACKEND_SESSIONS: &str = "backend_sessions";
/// Requests in flight to a backend, by pool and backend.
pub const BACKEND_REQUESTS: &str = "backend_requests";
/// Idle connections kept to a backend, by pool and backend.
pub const BACKEND_IDLE: &str = "backend_idle_connections";
