//! The admin API: authentication, queries, commands and their replies. Every command is logged.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    access::{AdminTransport, Token},
    configuration,
    problem::{Problem, json, raw},
    routes::{self, ApiAction, ApiCommand, ApiQuery, Missing},
};
use crate::api::{
    BackendTarget, Backends, Closed, Documentations, DrainRequest, ExplainRequest, FindRequest,
    NewBackend, NewWeight, OPENAPI, PlanRequest, Pools, PurgeRequest, ReloadRequest, RevokeRequest,
    Undrain, UpgradeRequest,
};
use crate::control::{CommandError, ControlHandle};
use crate::publication::{self, PublishedPage};

/// Deadline of a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Default `limit` of a list of sessions.
const DEFAULT_LIMIT: usize = 100;
/// Maximum `limit` of a list of sessions.
const MAX_LIMIT: usize = 10_000;

/// Response header with the process id.
pub static PROCESS_HEADER: HeaderName = HeaderName::from_static("moorline-process");
/// Response header with the absolute path of the configuration file, percent-encoded; omitted if the
/// process was configured by flags.
pub static CONFIG_HEADER: HeaderName = HeaderName::from_static("moorline-config");
/// Characters of a path that must be encoded in a header.
const UNSAFE_IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The API on one socket.
#[derive(Debug)]
pub(super) struct Api {
    control: ControlHandle,
    /// The configuration file, percent-encoded; `None`: the process was configured by flags.
    config: Option<HeaderValue>,
    token: Option<Token>,
}

type ApiReply = Response<Full<Bytes>>;

impl Api {
    /// Creates the API. With a token, every request must have it.
    pub(super) fn new(control: ControlHandle, token: Option<&str>) -> Self {
        let config = control.file().and_then(|file| {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
            let bytes = file.as_os_str().as_encoded_bytes();
            let encoded = percent_encode(bytes, UNSAFE_IN_HEADER).to_string();
            HeaderValue::try_from(encoded).ok()
        });
        Self { control, config, token: token.map(Token::new) }
    }

    /// Returns the reply to a request.
    pub(super) async fn answer<B>(&self, request: Request<B>, transport: AdminTransport) -> ApiReply
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.execute(request, transport).await {
            Ok(reply) => self.with_process_headers(reply),
            // A client without the token learns nothing about the process.
            Err(problem @ Problem::Unauthorized { .. }) => problem.response(),
            Err(problem) => self.with_process_headers(problem.response()),
        }
    }

    /// Adds the headers that identify the process.
    fn with_process_headers(&self, mut reply: ApiReply) -> ApiReply {
        let headers = reply.headers_mut();
        headers.insert(&PROCESS_HEADER, std::process::id().into());
        if let Some(config) = &self.config {
            headers.insert(&CONFIG_HEADER, config.clone());
        }
        reply
    }

    async fn execute<B>(
        &self,
        request: Request<B>,
        transport: AdminTransport,
    ) -> Result<ApiReply, Problem>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        // Checked first, so that a client without the token does not learn which paths exist.
        if let Some(token) = self.token.as_ref().filter(|token| !token.matches(&head.headers)) {
            token.log_rejected(transport);
            let given = head.headers.contains_key(http::header::AUTHORIZATION);
            return Err(Problem::Unauthorized { given });
        }
        let (route, path_parameters) =
            routes::find(&head.method, head.uri.path()).map_err(|missing| match missing {
                Missing::Path => Problem::NoPath,
                Missing::Method(allow) => Problem::Method(allow),
            })?;
        let body = read(route.body, &head.headers, body).await?;
        let call = ApiCall { control: &self.control, transport, path_parameters, body };
        match route.action {
            ApiAction::Query(query) => call.query(query, head.uri.query()).await,
            ApiAction::Command(command) => call.command(command).await,
        }
    }
}

/// Reads the body that a route expects.
async fn read<B>(expected: routes::Body, headers: &HeaderMap, body: B) -> Result<Bytes, Problem>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (limit, optional) = match expected {
        routes::Body::None => return Ok(Bytes::new()),
        routes::Body::Json(limit) => (limit, false),
        routes::Body::Optional(limit) => (limit, true),
    };
    if optional && body.is_end_stream() {
        return Ok(Bytes::from_static(b"{}"));
    }
    if !is_json(headers) {
        return Err(Problem::MediaType);
    }
    let limited = std::pin::pin!(Limited::new(body, limit));
    match tokio::time::timeout(BODY_TIMEOUT, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::TooLong(limit)),
        Ok(Err(error)) => Err(Problem::Invalid(format!("the body broke off: {error}"))),
        Err(_) => Err(Problem::TooSlow),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// Reads the query of a description: whether the routes are part of it.
fn documentation_query(query: &str) -> Result<bool, Problem> {
    match query {
        "" | "routes=false" => Ok(false),
        "routes=true" => Ok(true),
        other => Err(Problem::Invalid(format!("invalid query {other:?}: use routes=true"))),
    }
}

/// Creates a reply with a page.
fn page(page: PublishedPage) -> ApiReply {
    let mut reply = raw(StatusCode::OK, page.text.into());
    let headers = reply.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, page.policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    reply
}

/// An authenticated request.
struct ApiCall<'a> {
    control: &'a ControlHandle,
    transport: AdminTransport,
    /// Parameters of the path, in order.
    path_parameters: Vec<String>,
    body: Bytes,
}

impl ApiCall<'_> {
    async fn query(
        mut self,
        query: ApiQuery,
        query_string: Option<&str>,
    ) -> Result<ApiReply, Problem> {
        let control = self.control;
        match query {
            ApiQuery::Status => ok(&control.status().await?),
            ApiQuery::Pools => ok(&Pools { pools: control.status().await?.pools }),
            ApiQuery::Pool => {
                let name = self.name();
                let mut pools = control.status().await?.pools.into_iter();
                let missing = || CommandError::NotFound(format!("there is no pool {name:?}"));
                ok(&pools.find(|pool| pool.name == name).ok_or_else(missing)?)
            }
            ApiQuery::Sessions => {
                let (target, limit) = sessions_query(query_string.unwrap_or_default())?;
                ok(&control.sessions(&validated(target)?, limit)?)
            }
            ApiQuery::FindSession => {
                let request: FindRequest = self.json()?;
                ok(&control.whereabouts(&request.sid))
            }
            ApiQuery::Plan => {
                let request: PlanRequest = self.json()?;
                ok(&control.plan(request).await?)
            }
            ApiQuery::Config => ok(&configuration::to_json(&*control.config().await?)),
            ApiQuery::Explain => {
                let request: ExplainRequest = self.json()?;
                ok(&control.explain(request).await?)
            }
            ApiQuery::Cache => ok(&control.cache()),
            ApiQuery::Documentations => {
                let names = publication::names(&*control.config().await?);
                ok(&Documentations { documents: names })
            }
            ApiQuery::Documentation => {
                let routes = documentation_query(query_string.unwrap_or_default())?;
                ok(&self.documentation(routes, |published| published).await?)
            }
            ApiQuery::DocumentationPage => Ok(page(
                self.documentation(false, |published| publication::page(&published)).await?,
            )),
            ApiQuery::OpenApi => Ok(raw(StatusCode::OK, Bytes::from_static(OPENAPI.as_bytes()))),
        }
    }

    async fn command(mut self, command: ApiCommand) -> Result<ApiReply, Problem> {
        match command {
            ApiCommand::AddBackend | ApiCommand::RemoveBackend | ApiCommand::SetWeight => {
                self.backend_command(command).await
            }
            ApiCommand::Drain => {
                let (target, terms) = self.json::<DrainRequest>()?.split().ok_or_else(no_target)?;
                let target = validated(target)?;
                let result = self.control.drain(target.clone(), terms).await;
                let backends = self.logged("drain", &target.to_string(), result)?;
                ok(&Backends { backends })
            }
            ApiCommand::Undrain => {
                let target = self.json::<Undrain>()?.target().ok_or_else(no_target)?;
                let target = validated(target)?;
                let result = self.control.undrain(target.clone()).await;
                let backends = self.logged("undrain", &target.to_string(), result)?;
                ok(&Backends { backends })
            }
            ApiCommand::CloseSession => {
                let id = self.name();
                let result = self.control.close(&id);
                self.logged("close a session", &id, result)?;
                ok(&Closed { closed: id })
            }
            ApiCommand::PurgeCache => {
                let request: PurgeRequest = self.json()?;
                let subject = serde_json::to_string(&request).unwrap_or_default();
                let result = self.control.purge_cache(request).await;
                ok(&self.logged("remove stored responses", &subject, result)?)
            }
            ApiCommand::Revoke => {
                let RevokeRequest { subject } = self.json()?;
                let result = self.control.revoke(&subject);
                ok(&self.logged("revoke", &subject, result)?)
            }
            ApiCommand::Reload => {
                let request: ReloadRequest = self.json()?;
                let result = self.control.reload(request).await;
                ok(&self.logged("reload", "the file", result)?)
            }
            ApiCommand::Upgrade => {
                let request: UpgradeRequest = self.json()?;
                let binary = request.binary.clone().unwrap_or_else(|| "the same binary".to_owned());
                let result = self.control.upgrade(request).await;
                ok(&self.logged("upgrade", &binary, result)?)
            }
        }
    }

    /// Makes the description that the path names, on a separate thread: documents may be large.
    async fn documentation<T: Send + 'static>(
        mut self,
        routes: bool,
        then: fn(serde_json::Value) -> T,
    ) -> Result<T, Problem> {
        let name = self.name();
        let config = self.control.config().await?;
        let missing = format!("there is no description {name:?}");
        let made = tokio::task::spawn_blocking(move || {
            publication::document(&config, &name, routes).map(|published| then(published.document))
        });
        let made = made.await.unwrap_or_default();
        Ok(made.ok_or(CommandError::NotFound(missing))?)
    }

    /// Executes a command about one backend of a pool.
    async fn backend_command(mut self, command: ApiCommand) -> Result<ApiReply, Problem> {
        let pool = self.name();
        if command == ApiCommand::AddBackend {
            let new: NewBackend = self.json()?;
            let subject = format!("{pool}/{}", new.name.as_ref().unwrap_or(&new.address));
            let result = self.control.add(pool, new).await;
            let added = self.logged("add a backend", &subject, result)?;
            return Ok(json(StatusCode::CREATED, &added));
        }
        let backend = self.name();
        let subject = format!("{pool}/{backend}");
        if command == ApiCommand::SetWeight {
            let NewWeight { weight } = self.json()?;
            let result = self.control.set_weight(pool, backend, weight).await;
            return ok(&self.logged("weight", &format!("{subject} to {weight}"), result)?);
        }
        let result = self.control.remove(pool, backend).await;
        ok(&self.logged("remove a backend", &subject, result)?)
    }

    /// Takes the next path parameter. The path in [`routes::ROUTES`] must have one.
    fn name(&mut self) -> String {
        self.path_parameters.remove(0)
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        // serde also accepts an array, with its elements as fields in order; `[]` would then mean all
        // backends.
        if !self.body.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::Invalid("the body must be a JSON object".to_owned()));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Problem::Invalid(format!("invalid body: {error}")))
    }

    /// Logs a command and its result.
    fn logged<T>(
        &self,
        command: &str,
        subject: &str,
        result: Result<T, CommandError>,
    ) -> Result<T, Problem> {
        let by = self.transport;
        match &result {
            Ok(_) => tracing::info!(command, subject, %by, "executed an admin command"),
            Err(error) => tracing::info!(command, subject, %by, %error, "an admin command failed"),
        }
        Ok(result?)
    }
}

fn ok(value: &impl Serialize) -> Result<ApiReply, Problem> {
    Ok(json(StatusCode::OK, value))
}

fn no_target() -> Problem {
    let text = "set `pool`, or `pool` and `backend`, or `\"all\": true` for all backends";
    Problem::Invalid(text.to_owned())
}

/// Checks that a target with a backend also has a pool.
fn validated(target: BackendTarget) -> Result<BackendTarget, Problem> {
    match target {
        BackendTarget { pool: None, backend: Some(_) } => {
            Err(Problem::Invalid("`backend` needs its `pool`".to_owned()))
        }
        target => Ok(target),
    }
}

/// Parses the query string of a list of sessions: target and limit.
fn sessions_query(query: &str) -> Result<(BackendTarget, usize), Problem> {
    let (mut target, mut limit) = (BackendTarget::default(), DEFAULT_LIMIT);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| Problem::Invalid(format!("`{name}` is not UTF-8")))?
            .into_owned();
        match name {
            "pool" => target.pool = Some(value),
            "backend" => target.backend = Some(value),
            "limit" => match value.parse() {
                Ok(number) if (1..=MAX_LIMIT).contains(&number) => limit = number,
                _ => {
                    return Err(Problem::Invalid(format!("invalid `limit`: use 1 to {MAX_LIMIT}")));
                }
            },
            _ => {
                let known = "use pool, backend or limit";
                return Err(Problem::Invalid(format!("unknown parameter {name:?}: {known}")));
            }
        }
    }
    Ok((target, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_queries_are_parsed() {
        let (target, limit) = sessions_query("pool=a%20b&backend=%5B::1%5D:3000&limit=7").unwrap();
        assert_eq!(target.to_string(), "a b/[::1]:3000");
        assert_eq!(limit, 7);
        assert_eq!(sessions_query("").unwrap(), (BackendTarget::default(), DEFAULT_LIMIT));
        for bad in ["limit=0", "limit=10001", "limit=x", "limit", "sid=x", "pool=%ff"] {
            assert!(matches!(sessions_query(bad), Err(Problem::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn only_the_json_media_type_is_accepted() {
        let of = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            is_json(&headers)
        };
        assert!(of("application/json") && of("Application/JSON ; charset=utf-8"));
        assert!(!of("text/plain") && !of("application/x-www-form-urlencoded") && !of(""));
        assert!(!is_json(&HeaderMap::new()));
    }
}
