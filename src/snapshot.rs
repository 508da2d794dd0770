//! The configuration of the data path at one moment: routes, pools, listeners, trusted peers.
//!
//! A [`Snapshot`] is immutable; a reload builds a new one and replaces the old one atomically. A request
//! loads it once. Backends, with their health and counters, live longer than a configuration and are
//! shared between snapshots. A tunnel keeps a reference to its backend only.

use std::{collections::HashMap, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::Semaphore;

use crate::{
    acme::ManagedCertificate,
    config,
    gateway::{Conditions, FilterChain, Forcing, LocalAnswer},
    net::{
        client_hello::ClientHello,
        connection_rate::ConnectionRate,
        per_address::PerAddress,
        tls::{Terminator, TlsInfo},
    },
    observe::{Notices, Redaction, RouteLabel},
    route::Routes,
    sticky::{CookieContext, CookieIds, CookieKeys, CookieMatch, set_cookie},
    upstream::{self, Backend, BackendConnector},
};

/// Pointer to the current snapshot, from which the data path reads it.
pub type Current = ArcSwap<Snapshot>;

/// A consistent view of the current configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Routes from listener, host and path to a pool.
    pub routes: Routes<RouteTarget>,
    /// All pools, in file order.
    pub pools: Vec<Arc<PoolSnapshot>>,
    /// Backends of pools that were removed from the configuration. They get no requests, but may still
    /// have tunnels.
    pub removed: Vec<Arc<Backend>>,
    /// Listeners by name.
    pub listeners: HashMap<Arc<str>, Arc<ListenerSnapshot>>,
    /// Peers whose forwarding headers are trusted.
    pub trusted: Vec<IpNet>,
    /// Secrets that are omitted from the access log.
    pub redaction: Redaction,
    /// Whether backends get `Forwarded` even if the request had none.
    pub forwarded_always: bool,
    /// Whether browsers log in on a route.
    pub logins: bool,
    /// Custom pages for errors of requests without a route.
    pub error_pages: Option<Arc<config::ErrorPages>>,
    /// Whether backends of any pool get PROXY headers.
    pub sends_proxy_headers: bool,
}

/// Target of a route.
#[derive(Clone, Debug)]
pub struct RouteTarget {
    /// Host, path and pool for the access log and metrics.
    pub route_label: Arc<RouteLabel>,
    /// Conditions beyond host and path; `None`: every request meets them.
    pub(crate) conditions: Option<Arc<Conditions>>,
    /// What answers the requests.
    pub(crate) action: RouteAction,
    /// A pool that gets copies of requests.
    pub(crate) mirror: Option<Arc<MirrorTarget>>,
    /// Time limits of the route with its pool; `None`: those of the pool. A split has them with its pools.
    pub(crate) timeouts: Option<Arc<config::Timeouts>>,
    /// Custom pages for errors, including those of the top level; `None`: the built-in page.
    pub error_pages: Option<Arc<config::ErrorPages>>,
    /// What else is done with requests and responses; `None`: nothing.
    pub(crate) filters: Option<Arc<FilterChain>>,
}

/// What answers the requests of a route.
#[derive(Clone, Debug)]
pub(crate) enum RouteAction {
    /// A pool.
    Pool(Arc<PoolSnapshot>),
    /// Several pools, by weight.
    Split(Arc<SplitTarget>),
    /// A response that is made without a backend.
    Answer(Arc<LocalAnswer>),
}

/// A pool that gets copies of the requests of a route.
#[derive(Debug)]
pub(crate) struct MirrorTarget {
    pub(crate) pool: Arc<PoolSnapshot>,
    /// How many of 100 requests are copied.
    pub(crate) share: u8,
    /// Maximum size of the body of a copied request, in bytes.
    pub(crate) max_body: usize,
    /// Limits the number of copies at a time.
    pub(crate) slots: Arc<Semaphore>,
}

/// Pools that share the requests of a route.
#[derive(Debug)]
pub(crate) struct SplitTarget {
    /// The pools, at most 16. The sum of their weights is not 0.
    pub(crate) shares: Box<[PoolShare]>,
}

/// A pool of a split.
#[derive(Debug)]
pub(crate) struct PoolShare {
    pub(crate) pool: Arc<PoolSnapshot>,
    /// Share of the requests, relative to the sum of the weights.
    pub(crate) weight: u32,
    /// What forces requests to the pool.
    pub(crate) forcing: Option<Forcing>,
    /// Time limits of the route with this pool; `None`: those of the pool.
    pub(crate) timeouts: Option<Arc<config::Timeouts>>,
    /// Host, path and pool for the access log and metrics.
    pub(crate) route_label: Arc<RouteLabel>,
}

impl SplitTarget {
    /// Returns the share of a pool.
    pub(crate) fn share_of(&self, pool: &Arc<PoolSnapshot>) -> Option<&PoolShare> {
        self.shares.iter().find(|share| Arc::ptr_eq(&share.pool, pool))
    }
}

/// Policies of a listener, without its sockets.
#[derive(Debug)]
pub struct ListenerSnapshot {
    /// Name in the file.
    pub name: Arc<str>,
    /// Terminates TLS; `None`: TLS is not terminated.
    pub tls: Option<Terminator>,
    /// Certificates of the listener.
    pub certificates: ListenerCertificates,
    /// Whether the listener is for HTTP, not layer 4.
    pub http: bool,
    /// Name of the pool of layer-4 streams, if all go to the same pool.
    pub pool: Option<Arc<str>>,
    /// Rules from server name and ALPN to the pool of passthrough connections. The first rule that matches
    /// a ClientHello counts.
    pub passthrough: Vec<PassthroughRule>,
    /// Whether the ClientHello is peeked at to choose a passthrough pool.
    pub peeks_client_hello: bool,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: Option<config::ProxyIn>,
    /// Maximum and current connections per client address; `None`: no limit.
    pub per_address: Option<(NonZeroU32, Arc<PerAddress>)>,
    /// Rate of new connections per client address; `None`: no limit.
    pub connection_rate: Option<Arc<ConnectionRate>>,
    /// Redirect that the listener replies with.
    pub redirect: Option<config::Redirect>,
    /// Deadline of PROXY header and TLS handshake, together.
    pub handshake_timeout: Duration,
    /// Deadline of a request header.
    pub header_timeout: Duration,
    /// Warnings that the traffic of the listener has caused.
    pub notices: Notices,
    /// Maximum time that an idle connection is kept.
    pub keep_alive: Duration,
    /// Limits of a request header.
    pub header: config::HeaderLimits,
}

/// Certificates of a listener.
#[derive(Clone, Debug)]
pub enum ListenerCertificates {
    /// Certificates from files; empty if the listener does not terminate TLS.
    Configured(Vec<config::Certificate>),
    /// The newest certificate from ACME.
    Issued(Arc<ManagedCertificate>),
}

impl ListenerCertificates {
    /// Returns the certificates currently in use.
    pub fn current(&self) -> Vec<config::Certificate> {
        match self {
            Self::Configured(certificates) => certificates.clone(),
            Self::Issued(issued) => issued.certificate().into_iter().collect(),
        }
    }

    /// Whether an ACME certificate has not been issued yet.
    pub fn are_missing(&self) -> bool {
        matches!(self, Self::Issued(issued) if issued.resolver().is_empty())
    }

    /// Returns why the newest ACME order failed; `None`: it did not fail.
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Configured(_) => None,
            Self::Issued(issued) => issued.last_error(),
        }
    }
}

/// A rule for connections that are forwarded without decryption.
#[derive(Debug)]
pub struct PassthroughRule {
    /// Server names and ALPN protocols that the rule matches.
    pub rule: config::PassthroughConfig,
    /// Name of the pool.
    pub pool: Arc<str>,
}

/// A pool and the affinity cookies of its backends.
#[derive(Debug)]
pub struct PoolSnapshot {
    /// Backends, balance, retry budget.
    pub upstream: Arc<upstream::Pool>,
    connector: Arc<BackendConnector>,
    /// Removed backends that still hold sessions; they take no new ones.
    leaving: Vec<Arc<Backend>>,
    ids: CookieIds,
    /// Whether cookies with the default name of earlier versions are also accepted.
    accepts_former: bool,
    /// Label of layer-4 streams to this pool, which have no route.
    route_label: Arc<RouteLabel>,
    /// Index of a backend in [`CookieIds`], by its serial number.
    indices: HashMap<u64, usize>,
}

impl Snapshot {
    /// Returns all backends that may hold sessions or tunnels.
    pub fn holders(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.pools.iter().flat_map(|pool| pool.holders(0)).chain(&self.removed)
    }

    /// Returns the pool with this name.
    pub fn pool(&self, name: &str) -> Option<&Arc<PoolSnapshot>> {
        self.pools.iter().find(|pool| pool.upstream.name() == name)
    }

    /// Whether the forwarding headers of this peer are trusted.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|net| net.contains(&peer))
    }
}

impl ListenerSnapshot {
    /// Returns the passthrough pool of a connection with this ClientHello. `None`: the connection is
    /// decrypted, or rejected if the listener does not terminate TLS.
    pub fn passthrough_pool(&self, hello: &ClientHello) -> Option<&Arc<str>> {
        let covers = |rule: &config::PassthroughConfig| {
            let name = hello.sni.as_deref();
            let offers = |wanted: &String| hello.protocols().any(|p| p == wanted.as_bytes());
            (rule.sni.is_empty() || name.is_some_and(|name| rule.names(name)))
                && (rule.alpn.is_empty() || rule.alpn.iter().any(offers))
        };
        let rule = self.passthrough.iter().find(|passthrough| covers(&passthrough.rule));
        let default = self.pool.as_ref().filter(|_| self.tls.is_none());
        rule.map(|passthrough| &passthrough.pool).or(default)
    }

    /// Whether a request for this host, in lower case, is misdirected (RFC 9110, section 15.5.20): the host
    /// belongs to a passthrough rule, but the request came over a connection for another server name.
    pub fn is_misdirected(&self, host: &str, tls: Option<&TlsInfo>) -> bool {
        let sni = tls.and_then(|tls| tls.sni.as_deref());
        // A rule for protocols other than HTTP/1.1 does not apply to requests.
        let takes = |rule: &config::PassthroughConfig| {
            rule.names(host) && (rule.alpn.is_empty() || rule.alpn.iter().any(|p| p == "http/1.1"))
        };
        sni != Some(host) && self.passthrough.iter().any(|passthrough| takes(&passthrough.rule))
    }
}

impl PoolSnapshot {
    /// Creates the snapshot of a pool with the cookies of its backends. `leaving` are removed backends that
    /// still hold sessions.
    pub fn new(
        upstream: Arc<upstream::Pool>,
        connector: Arc<BackendConnector>,
        leaving: Vec<Arc<Backend>>,
        keys: &CookieKeys,
    ) -> Self {
        let backends = upstream.backends();
        let ids = CookieIds::new(keys, upstream.name(), backends.iter().map(|b| b.name()));
        let indices = backends.iter().enumerate().map(|(index, b)| (b.serial(), index)).collect();
        let route_label = Arc::new(RouteLabel { route: None, pool: Some(upstream.name().into()) });
        let cookie = upstream.config().sticky.cookie.as_ref();
        let accepts_former =
            cookie.is_some_and(|c| c.name == config::default_cookie_name(upstream.name()));
        Self { upstream, connector, leaving, ids, accepts_former, route_label, indices }
    }

    /// Returns the connector to the backends.
    pub fn connector(&self) -> &Arc<BackendConnector> {
        &self.connector
    }

    /// Returns the label of layer-4 streams to this pool, if the listener names the pool.
    pub fn route_label(&self) -> &Arc<RouteLabel> {
        &self.route_label
    }

    /// Returns the configuration of the pool.
    pub fn config(&self) -> &config::PoolConfig {
        self.upstream.config()
    }

    /// Returns the backends that may hold an unknown session, beginning with the `start`-th and wrapping
    /// around; removed backends come last.
    pub fn holders(&self, start: usize) -> impl Iterator<Item = &Arc<Backend>> {
        let backends = self.upstream.backends();
        let start = start.checked_rem(backends.len()).unwrap_or(0);
        backends[start..].iter().chain(&backends[..start]).chain(&self.leaving)
    }

    /// Returns the backend with this [`tag`](Backend::tag), if it takes new sessions and does not shed.
    pub fn tagged(&self, tag: u64) -> Option<&Arc<Backend>> {
        let tagged = self.upstream.backends().iter().find(|b| b.tag() == tag);
        tagged.filter(|b| b.accepts_new() && !b.is_shedding())
    }

    /// Returns the backend that a cookie value names, and whether the value was created with the current
    /// key.
    pub fn cookie_target(&self, value: &str) -> Option<(&Arc<Backend>, bool)> {
        let CookieMatch { index, current_key } = self.ids.find(value)?;
        Some((&self.upstream.backends()[index], current_key))
    }

    /// Whether cookies with [`FORMER_COOKIE_NAME`](config::FORMER_COOKIE_NAME) are also accepted; false if
    /// the configuration sets a name.
    pub fn reads_former_cookie(&self) -> bool {
        self.accepts_former
    }

    /// Returns the `Set-Cookie` value for `backend`. `None`: no cookie is configured, or the backend was
    /// removed from the pool.
    pub fn cookie(&self, backend: &Backend, context: CookieContext) -> Option<String> {
        let cookie = self.config().sticky.cookie.as_ref()?;
        let value = self.ids.value(*self.indices.get(&backend.serial())?);
        Some(set_cookie(cookie, value, context))
    }
}
