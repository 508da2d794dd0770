//! What the data path runs by at one moment: routes, pools, listeners' policies, trusted peers.
//!
//! A [`Snapshot`] never changes; a reload builds the next one and swaps it in whole. A request loads
//! it once. What lives longer than a configuration — backends with their health and counters — is
//! shared between snapshots, and a tunnel holds on to its backend only.

use std::{collections::HashMap, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderValue;
use ipnet::IpNet;

use crate::{
    acme::ManagedCertificate,
    config,
    net::{
        client_hello::ClientHello,
        per_address::PerAddress,
        tls::{Terminator, TlsInfo},
    },
    observe::{Notices, Redaction, RouteLabel},
    route::Routes,
    sticky::{CookieContext, CookieIds, CookieKeys, CookieMatch, set_cookie},
    upstream::{self, Backend, BackendConnector},
};

/// The one place where the data path finds the current snapshot.
pub type Current = ArcSwap<Snapshot>;

/// One consistent view of the configuration in force.
#[derive(Debug)]
pub struct Snapshot {
    /// From listener, host and path to a pool.
    pub routes: Routes<RouteTarget>,
    /// Every pool, in file order.
    pub pools: Vec<Arc<PoolSnapshot>>,
    /// Backends of pools that the configuration no longer has: no request leads to them, but they may
    /// hold tunnels.
    pub left: Vec<Arc<Backend>>,
    /// Policies by listener name.
    pub listeners: HashMap<Arc<str>, Arc<ListenerSnapshot>>,
    /// Peers whose forwarding headers are believed.
    pub trusted: Vec<IpNet>,
    /// Which secrets are kept out of the access log.
    pub redaction: Redaction,
    /// Whether backends get `Forwarded` even if none came in.
    pub forwarded_always: bool,
    /// Custom pages for errors of requests without a route.
    pub error_pages: Option<Arc<config::ErrorPages>>,
    /// Whether any pool's backends are told who their clients are.
    pub introduces: bool,
}

/// What a route leads to.
#[derive(Clone, Debug)]
pub struct RouteTarget {
    /// The route as it is told: its host, where it has one, and its path; and its pool.
    pub route_label: Arc<RouteLabel>,
    /// Who answers.
    pub pool: Arc<PoolSnapshot>,
    /// Custom pages for errors, those of the top level included; `None`: the built-in page.
    pub error_pages: Option<Arc<config::ErrorPages>>,
}

/// What a listener does with a connection; its sockets live elsewhere.
#[derive(Debug)]
pub struct ListenerSnapshot {
    /// Name in the file.
    pub name: Arc<str>,
    /// How TLS is terminated; `None`: it is not.
    pub tls: Option<Terminator>,
    /// What it is terminated by.
    pub certificates: ListenerCertificates,
    /// Whether requests are read, and not only bytes.
    pub http: bool,
    /// Name of the pool of layer-4 streams, where there is one for all.
    pub pool: Option<Arc<str>>,
    /// From server name and ALPN to the pool that connections are passed on to undecrypted; the first
    /// that covers a ClientHello counts.
    pub passthrough: Vec<PassthroughRule>,
    /// Whether the ClientHello is looked at before anything else.
    pub looks: bool,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: Option<config::ProxyIn>,
    /// How many connections one address may have, and has; `None`: any number, and nobody counts.
    pub per_address: Option<(NonZeroU32, Arc<PerAddress>)>,
    /// Answer with a redirect.
    pub redirect: Option<config::Redirect>,
    /// Deadline of PROXY header and TLS handshake, together.
    pub handshake_timeout: Duration,
    /// Deadline of a request's header.
    pub header_timeout: Duration,
    /// Warnings that its traffic has caused.
    pub notices: Notices,
    /// How long a connection is kept without a byte of another request.
    pub keep_alive: Duration,
    /// Limits of a request's header.
    pub header: config::HeaderLimits,
}

/// What a listener proves itself by.
#[derive(Clone, Debug)]
pub enum ListenerCertificates {
    /// These, or none: it does not terminate TLS.
    Given(Vec<config::Certificate>),
    /// The newest that was ordered.
    Issued(Arc<ManagedCertificate>),
}

impl ListenerCertificates {
    /// Those in place at this moment.
    pub fn now(&self) -> Vec<config::Certificate> {
        match self {
            Self::Given(certificates) => certificates.clone(),
            Self::Issued(issued) => issued.certificate().into_iter().collect(),
        }
    }

    /// Whether one is ordered, and none has been issued.
    pub fn are_missing(&self) -> bool {
        matches!(self, Self::Issued(issued) if issued.resolver().is_empty())
    }

    /// Why the newest order has failed, where it has.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Given(_) => None,
            Self::Issued(issued) => issued.last_error(),
        }
    }
}

/// One rule about connections that are passed on undecrypted.
#[derive(Debug)]
pub struct PassthroughRule {
    /// What it covers.
    pub rule: config::PassthroughConfig,
    /// Name of the pool it leads to.
    pub pool: Arc<str>,
}

/// A pool and the cookies that name its backends.
#[derive(Debug)]
pub struct PoolSnapshot {
    /// Backends, balance, retry budget.
    pub upstream: Arc<upstream::Pool>,
    connector: Arc<BackendConnector>,
    /// Backends on their way out of the pool: they take nothing new, but hold sessions.
    leaving: Vec<Arc<Backend>>,
    ids: CookieIds,
    /// Cookies of the name that all pools had in earlier versions count too.
    former: bool,
    /// How streams are told to be led here that no route leads.
    route_label: Arc<RouteLabel>,
    /// Place of a backend in [`CookieIds`], by serial.
    places: HashMap<u64, usize>,
}

impl Snapshot {
    /// Every backend that may hold a session or a tunnel.
    pub fn holders(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.pools.iter().flat_map(|pool| pool.holders(0)).chain(&self.left)
    }

    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Arc<PoolSnapshot>> {
        self.pools.iter().find(|pool| pool.upstream.name() == name)
    }

    /// Whether this peer's claims about earlier hops are believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|net| net.contains(&peer))
    }
}

impl ListenerSnapshot {
    /// The pool that a connection with this ClientHello is passed on to undecrypted; `None`: it is to
    /// be decrypted, or refused where no TLS is terminated.
    pub fn passed_on(&self, hello: &ClientHello) -> Option<&Arc<str>> {
        let covers = |rule: &config::PassthroughConfig| {
            let name = hello.sni.as_deref();
            let offers = |wanted: &String| hello.protocols().any(|p| p == wanted.as_bytes());
            (rule.sni.is_empty() || name.is_some_and(|name| rule.names(name)))
                && (rule.alpn.is_empty() || rule.alpn.iter().any(offers))
        };
        let rule = self.passthrough.iter().find(|passed| covers(&passed.rule));
        let rest = self.pool.as_ref().filter(|_| self.tls.is_none());
        rule.map(|passed| &passed.pool).or(rest)
    }

    /// Whether requests for this host, a name in lower case, belong on connections that are passed on:
    /// one that came over another name's is misdirected (RFC 9110, section 15.5.20).
    pub fn misdirects(&self, host: &str, secured: Option<&TlsInfo>) -> bool {
        let over = secured.and_then(|secured| secured.sni.as_deref());
        // One for other protocols than requests come by leaves the host's requests to us.
        let takes = |rule: &config::PassthroughConfig| {
            rule.names(host) && (rule.alpn.is_empty() || rule.alpn.iter().any(|p| p == "http/1.1"))
        };
        over != Some(host) && self.passthrough.iter().any(|passed| takes(&passed.rule))
    }
}

impl PoolSnapshot {
    /// Makes the cookies of a pool's backends, which are reached by `connector`; `leaving` are those that it
    /// had before and that have not ended yet.
    pub fn new(
        upstream: Arc<upstream::Pool>,
        connector: Arc<BackendConnector>,
        leaving: Vec<Arc<Backend>>,
        keys: &CookieKeys,
    ) -> Self {
        let backends = upstream.backends();
        let ids = CookieIds::new(keys, upstream.name(), backends.iter().map(|b| b.name()));
        let places = backends.iter().enumerate().map(|(place, b)| (b.serial(), place)).collect();
        let route_label = Arc::new(RouteLabel { route: None, pool: upstream.name().into() });
        let cookie = upstream.config().sticky.cookie.as_ref();
        let former = cookie.is_some_and(|c| c.name == config::default_cookie_name(upstream.name()));
        Self { upstream, connector, leaving, ids, former, route_label, places }
    }

    /// How its backends are reached.
    pub fn connector(&self) -> &Arc<BackendConnector> {
        &self.connector
    }

    /// How streams are told to be led here where the listener names the pool.
    pub fn route_label(&self) -> &Arc<RouteLabel> {
        &self.route_label
    }

    /// The pool's configuration.
    pub fn config(&self) -> &config::PoolConfig {
        self.upstream.config()
    }

    /// Backends that may hold a session nobody here has heard of, from the `start`-th on and round.
    pub fn holders(&self, start: usize) -> impl Iterator<Item = &Arc<Backend>> {
        let backends = self.upstream.backends();
        let start = start.checked_rem(backends.len()).unwrap_or(0);
        backends[start..].iter().chain(&backends[..start]).chain(&self.leaving)
    }

    /// The backend with this [`tag`](Backend::tag), where it takes new sessions and does not shed.
    pub fn tagged(&self, tag: u64) -> Option<&Arc<Backend>> {
        let tagged = self.upstream.backends().iter().find(|b| b.tag() == tag);
        tagged.filter(|b| b.accepts_new() && !b.is_shedding())
    }

    /// The backend of this pool that a cookie's value names, and whether the value was made under the
    /// current key.
    pub fn cookie_target(&self, value: &str) -> Option<(&Arc<Backend>, bool)> {
        let CookieMatch { index, current_key } = self.ids.find(value)?;
        Some((&self.upstream.backends()[index], current_key))
    }

    /// Whether valid cookies of [`FORMER_COOKIE_NAME`](config::FORMER_COOKIE_NAME) count too: unless the
    /// cookie has a name of the operator's choice.
    pub fn reads_former_cookie(&self) -> bool {
        self.former
    }

    /// The `Set-Cookie` that names `backend`; `None` if no cookie is configured or the backend has left
    /// the pool.
    pub fn cookie(&self, backend: &Backend, context: CookieContext) -> Option<HeaderValue> {
        let cookie = self.config().sticky.cookie.as_ref()?;
        let value = self.ids.value(*self.places.get(&backend.serial())?);
        Some(set_cookie(cookie, value, context))
    }
}
