//! Forward auth: another server decides about each request, as with `auth_request` of nginx and ForwardAuth of Traefik.
//!
//! The server gets a GET request with the fields of the client's request and what the proxy knows about it, never its
//! body. A 2xx lets the request pass, and fields of the response are copied to it. A 3xx or 4xx refuses it. Any other
//! response decides nothing, and without a decision in time the request fails.
//!
//! A decision to let a request pass can be kept for a short while. Its key is all that the server sees, but for what
//! changes with each request of a session: its id, and the parameters `t` and `sid` of Engine.IO.

mod question;

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use moorline_http::RequestHead;
use tokio::time::timeout;

pub(crate) use self::question::{ForwardFacts, ForwardQuestion, is_confusable};
use super::{
    AuthMethod, Identity,
    credential_cache::{CredentialCache, KeyedHash},
    fetch::Endpoint,
};
use crate::{
    config::ForwardAuthConfig,
    http_client::{HttpConnection, with_sources},
};

/// Maximum size of the body of a response, which may go to the client.
const MAX_BODY: usize = 64 << 10;

/// Idle connections that are kept.
const MOST_IDLE: usize = 16;

/// Time for which an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Fields of a refusal that the client gets.
const RELAYED: [HeaderName; 8] = [
    header::LOCATION,
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CACHE_CONTROL,
    header::RETRY_AFTER,
];

/// Names and values.
type CopiedFields = Vec<(HeaderName, HeaderValue)>;

/// The client of a server that decides about requests.
#[derive(Debug)]
pub(crate) struct ForwardAuth {
    config: ForwardAuthConfig,
    endpoint: Endpoint,
    idle: Mutex<Vec<IdleDecider>>,
    decided: CredentialCache<Arc<ForwardGrant>>,
    hash: KeyedHash,
}

struct IdleDecider {
    connection: HttpConnection,
    since: Instant,
}

impl fmt::Debug for IdleDecider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleDecider").finish_non_exhaustive()
    }
}

/// What a 2xx gives to a request.
#[derive(Clone, Debug)]
pub(crate) struct ForwardGrant {
    /// Fields for the backend.
    pub(crate) fields: CopiedFields,
    /// Fields for the client. They are given once: a kept decision has none, as a cookie may have changed since.
    pub(crate) back: CopiedFields,
    /// The client, if the response names it.
    pub(crate) identity: Option<Arc<Identity>>,
}

/// The decision about a request.
#[derive(Debug)]
pub(crate) enum ForwardAnswer {
    /// It may pass.
    Allowed(Arc<ForwardGrant>),
    /// It may not, with this response.
    Refused(Response<Bytes>),
    /// There is no decision; with the reason.
    Unavailable(String),
}

impl ForwardAuth {
    pub(super) fn new(config: ForwardAuthConfig) -> Self {
        let endpoint = Endpoint::of(&config.url);
        let (decided, hash) = (CredentialCache::default(), KeyedHash::new());
        Self { config, endpoint, idle: Mutex::default(), decided, hash }
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &ForwardAuthConfig {
        &self.config
    }

    /// Returns a decision that was made a short while ago, or the request that asks for one.
    pub(crate) fn decide(
        &self,
        request: &RequestHead,
        facts: &ForwardFacts<'_>,
    ) -> Result<Arc<ForwardGrant>, Box<ForwardQuestion>> {
        let Self { config, endpoint, hash, .. } = self;
        let question = ForwardQuestion::new(config, endpoint, hash, request, facts);
        let known = question.key.and_then(|key| self.decided.find(&key, super::now()));
        known.ok_or_else(|| Box::new(question))
    }

    /// Asks the server.
    pub(crate) async fn ask(&self, question: Box<ForwardQuestion>) -> ForwardAnswer {
        let ForwardQuestion { request, key } = *question;
        let response = match request {
            Some(request) => self.response(request).await,
            None => Err("the request has bytes that no field can have".to_owned()),
        };
        let granted = match response {
            Ok(response) if response.status().is_success() => self.grant(&response),
            Ok(response) if refuses(response.status()) => {
                return ForwardAnswer::Refused(relayed(response));
            }
            Ok(response) => Err(format!("status {}", response.status().as_u16())),
            Err(reason) => Err(reason),
        };
        let grant = match granted {
            Ok(grant) => grant,
            Err(reason) => return ForwardAnswer::Unavailable(reason),
        };
        if let Some(key) = key {
            let kept = Arc::new(ForwardGrant { back: Vec::new(), ..grant.clone() });
            let now = super::now();
            self.decided.insert(key, kept, now + self.config.cache.as_secs(), now);
        }
        ForwardAnswer::Allowed(Arc::new(grant))
    }

    /// What a 2xx gives.
    fn grant(&self, response: &Response<Bytes>) -> Result<ForwardGrant, String> {
        let copied = |names: &[String]| {
            let names = names.iter().filter_map(|name| name.parse::<HeaderName>().ok());
            let fields = names.flat_map(|name| {
                let values = response.headers().get_all(&name).iter().cloned();
                values.map(|value| (name.clone(), value)).collect::<Vec<_>>()
            });
            fields.collect()
        };
        let ForwardAuthConfig { copy, copy_back, subject, .. } = &self.config;
        let identity = match subject {
            Some(name) => named_client(response, name)?,
            None => None,
        };
        Ok(ForwardGrant { fields: copied(copy), back: copied(copy_back), identity })
    }

    /// The response of the server, within its deadline.
    async fn response(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        match timeout(self.config.timeout, self.exchange(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(with_sources(&*error)),
            Err(_) => {
                let limit = humantime::format_duration(self.config.timeout);
                Err(format!("no complete response within {limit}"))
            }
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Box<dyn Error + Send + Sync>> {
        if let Some(mut connection) = self.idle() {
            // The server may have closed it at this moment.
            if let Ok(response) = connection.exchange(request.clone(), MAX_BODY).await {
                self.keep(connection);
                return Ok(response);
            }
        }
        let mut connection = self.endpoint.connect().await?;
        let response = connection.exchange(request, MAX_BODY).await?;
        self.keep(connection);
        Ok(response)
    }

    fn idle(&self) -> Option<HttpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| kept.since.elapsed() < IDLE && !kept.connection.is_closed());
        idle.pop().map(|kept| kept.connection)
    }

    fn keep(&self, connection: HttpConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE && !connection.is_closed() {
            idle.push(IdleDecider { connection, since: Instant::now() });
        }
    }
}

/// Whether a status is a decision against a request. A 304 does not decide: the request had no condition.
fn refuses(status: StatusCode) -> bool {
    status.is_client_error() || (status.is_redirection() && status != StatusCode::NOT_MODIFIED)
}

/// The client that a response names.
///
/// # Errors
/// It is not clear which.
fn named_client(response: &Response<Bytes>, name: &str) -> Result<Option<Arc<Identity>>, String> {
    let mut values = response.headers().get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (std::str::from_utf8(value.as_bytes()), values.next()) {
        (Ok(""), None) => Ok(None),
        (Ok(subject), None) => {
            let (method, subject) = (AuthMethod::Forward, subject.into());
            // A revocation ends the sessions until then. The server decides about later requests.
            let issued = Some(super::now());
            Ok(Some(Arc::new(Identity { method, subject, issued, ..Identity::default() })))
        }
        _ => Err(format!("`{name}` is not the name of one client")),
    }
}

/// The part of a refusal that the client gets.
fn relayed(response: Response<Bytes>) -> Response<Bytes> {
    let (mut parts, body) = response.into_parts();
    let mut fields = HeaderMap::new();
    for name in &RELAYED {
        let values = parts.headers.get_all(name).iter();
        fields.extend(values.map(|value| (name.clone(), value.clone())));
    }
    parts.headers = fields;
    Response::from_parts(parts, body)
}
