//! The API: who is let in, what is asked or ordered, how it is answered. Every order is logged.

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
    BackendTarget, Backends, Closed, DrainRequest, ExplainRequest, FindRequest, NewBackend,
    NewWeight, OPENAPI, PlanRequest, Pools, ReloadRequest, Undrain, UpgradeRequest,
};
use crate::control::{CommandError, ControlHandle};

/// Deadline of a request's body.
const BODY_WITHIN: Duration = Duration::from_secs(15);
/// Sessions that are listed where no number is given.
const SESSIONS: usize = 100;
/// The most that are.
const MOST_SESSIONS: usize = 10_000;

/// Header of each answer with the id of the process.
pub static PROCESS_HEADER: HeaderName = HeaderName::from_static("moorline-process");
/// Header of each answer with the absolute path of the configuration file, percent-encoded; none where the
/// process runs from flags.
pub static CONFIG_HEADER: HeaderName = HeaderName::from_static("moorline-config");
/// What a path must not have in a header.
const UNSAFE_IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The API on one socket.
#[derive(Debug)]
pub(super) struct Api {
    operator: ControlHandle,
    /// The configuration file, percent-encoded; `None`: the process runs from flags.
    config: Option<HeaderValue>,
    token: Option<Token>,
}

type ApiReply = Response<Full<Bytes>>;

impl Api {
    /// For who reaches the socket, or brings the token where there is one.
    pub(super) fn new(operator: ControlHandle, token: Option<&str>) -> Self {
        let config = operator.file().and_then(|file| {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
            let bytes = file.as_os_str().as_encoded_bytes();
            let encoded = percent_encode(bytes, UNSAFE_IN_HEADER).to_string();
            HeaderValue::try_from(encoded).ok()
        });
        Self { operator, config, token: token.map(Token::new) }
    }

    /// The answer to a request.
    pub(super) async fn answer<B>(&self, request: Request<B>, way: AdminTransport) -> ApiReply
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.attempt(request, way).await {
            Ok(reply) => self.signed(reply),
            // Without the token nothing is said about the process.
            Err(problem @ Problem::Unauthorized { .. }) => problem.response(),
            Err(problem) => self.signed(problem.response()),
        }
    }

    /// The same answer with headers that say which process gives it.
    fn signed(&self, mut reply: ApiReply) -> ApiReply {
        let headers = reply.headers_mut();
        headers.insert(&PROCESS_HEADER, std::process::id().into());
        if let Some(config) = &self.config {
            headers.insert(&CONFIG_HEADER, config.clone());
        }
        reply
    }

    async fn attempt<B>(
        &self,
        request: Request<B>,
        way: AdminTransport,
    ) -> Result<ApiReply, Problem>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        // Before anything else: who may not come in does not learn what is inside.
        if let Some(token) = self.token.as_ref().filter(|token| !token.is_in(&head.headers)) {
            token.refused(way);
            let given = head.headers.contains_key(http::header::AUTHORIZATION);
            return Err(Problem::Unauthorized { given });
        }
        let (route, named) =
            routes::find(&head.method, head.uri.path()).map_err(|missing| match missing {
                Missing::Path => Problem::NoPath,
                Missing::Method(allow) => Problem::Method(allow),
            })?;
        let body = read(route.body, &head.headers, body).await?;
        let call = ApiCall { operator: &self.operator, way, named, body };
        match route.action {
            ApiAction::Ask(question) => call.ask(question, head.uri.query()).await,
            ApiAction::Do(order) => call.order(order).await,
        }
    }
}

/// The body as far as a route takes one.
async fn read<B>(wanted: routes::Body, headers: &HeaderMap, body: B) -> Result<Bytes, Problem>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (limit, optional) = match wanted {
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
    match tokio::time::timeout(BODY_WITHIN, limited.collect()).await {
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

/// One request that was let in.
struct ApiCall<'a> {
    operator: &'a ControlHandle,
    way: AdminTransport,
    /// What the path names, in its order.
    named: Vec<String>,
    body: Bytes,
}

impl ApiCall<'_> {
    async fn ask(mut self, question: ApiQuery, query: Option<&str>) -> Result<ApiReply, Problem> {
        let operator = self.operator;
        match question {
            ApiQuery::Status => ok(&operator.status().await?),
            ApiQuery::Pools => ok(&Pools { pools: operator.status().await?.pools }),
            ApiQuery::Pool => {
                let name = self.name();
                let mut pools = operator.status().await?.pools.into_iter();
                let missing = || CommandError::NotFound(format!("there is no pool {name:?}"));
                ok(&pools.find(|pool| pool.name == name).ok_or_else(missing)?)
            }
            ApiQuery::Sessions => {
                let (of, limit) = sessions_query(query.unwrap_or_default())?;
                ok(&operator.sessions(&whole(of)?, limit)?)
            }
            ApiQuery::FindSession => {
                let order: FindRequest = self.json()?;
                ok(&operator.whereabouts(&order.sid))
            }
            ApiQuery::Plan => {
                let order: PlanRequest = self.json()?;
                ok(&operator.plan(order).await?)
            }
            ApiQuery::Config => ok(&configuration::shown(&*operator.config().await?)),
            ApiQuery::Explain => {
                let order: ExplainRequest = self.json()?;
                ok(&operator.explain(order).await?)
            }
            ApiQuery::OpenApi => Ok(raw(StatusCode::OK, Bytes::from_static(OPENAPI.as_bytes()))),
        }
    }

    async fn order(mut self, order: ApiCommand) -> Result<ApiReply, Problem> {
        match order {
            ApiCommand::AddBackend | ApiCommand::RemoveBackend | ApiCommand::SetWeight => {
                self.backend(order).await
            }
            ApiCommand::Drain => {
                let (target, how) = self.json::<DrainRequest>()?.split().ok_or_else(nobody)?;
                let target = whole(target)?;
                let done = self.operator.drain(target.clone(), how).await;
                let backends = self.told("drain", &target.to_string(), done)?;
                ok(&Backends { backends })
            }
            ApiCommand::Undrain => {
                let target = self.json::<Undrain>()?.target().ok_or_else(nobody)?;
                let target = whole(target)?;
                let done = self.operator.undrain(target.clone()).await;
                let backends = self.told("undrain", &target.to_string(), done)?;
                ok(&Backends { backends })
            }
            ApiCommand::CloseSession => {
                let id = self.name();
                let done = self.operator.close(&id);
                self.told("close a session", &id, done)?;
                ok(&Closed { closed: id })
            }
            ApiCommand::Reload => {
                let order: ReloadRequest = self.json()?;
                let done = self.operator.reload(order).await;
                ok(&self.told("reload", "the file", done)?)
            }
            ApiCommand::Upgrade => {
                let order: UpgradeRequest = self.json()?;
                let binary = order.binary.clone().unwrap_or_else(|| "the same binary".to_owned());
                let done = self.operator.upgrade(order).await;
                ok(&self.told("upgrade", &binary, done)?)
            }
        }
    }

    /// Orders about one backend of a pool.
    async fn backend(mut self, order: ApiCommand) -> Result<ApiReply, Problem> {
        let pool = self.name();
        if order == ApiCommand::AddBackend {
            let new: NewBackend = self.json()?;
            let subject = format!("{pool}/{}", new.name.as_ref().unwrap_or(&new.address));
            let done = self.operator.add(pool, new).await;
            let added = self.told("add a backend", &subject, done)?;
            return Ok(json(StatusCode::CREATED, &added));
        }
        let backend = self.name();
        let subject = format!("{pool}/{backend}");
        if order == ApiCommand::SetWeight {
            let NewWeight { weight } = self.json()?;
            let done = self.operator.set_weight(pool, backend, weight).await;
            return ok(&self.told("weight", &format!("{subject} to {weight}"), done)?);
        }
        let done = self.operator.remove(pool, backend).await;
        ok(&self.told("remove a backend", &subject, done)?)
    }

    /// The next thing that the path names; [`routes::ROUTES`] has a place for each that is taken.
    fn name(&mut self) -> String {
        self.named.remove(0)
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        // An array would do for serde: its elements as fields, in order, and `[]` would mean everything.
        if !self.body.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::Invalid("the body must be a JSON object".to_owned()));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Problem::Invalid(format!("the body is wrong: {error}")))
    }

    /// Logs an order and what became of it.
    fn told<T>(
        &self,
        order: &str,
        subject: &str,
        done: Result<T, CommandError>,
    ) -> Result<T, Problem> {
        match &done {
            Ok(_) => tracing::info!(order, subject, by = %self.way, "ordered"),
            Err(why) => tracing::info!(order, subject, by = %self.way, %why, "order refused"),
        }
        Ok(done?)
    }
}

fn ok(value: &impl Serialize) -> Result<ApiReply, Problem> {
    Ok(json(StatusCode::OK, value))
}

fn nobody() -> Problem {
    let wrong =
        "name a `pool`, and a `backend` of it where only one is meant, or say `\"all\": true`";
    Problem::Invalid(wrong.to_owned())
}

/// A backend is one of a pool.
fn whole(target: BackendTarget) -> Result<BackendTarget, Problem> {
    match target {
        BackendTarget { pool: None, backend: Some(_) } => {
            Err(Problem::Invalid("`backend` needs its `pool`".to_owned()))
        }
        target => Ok(target),
    }
}

/// Whose sessions, and how many.
fn sessions_query(query: &str) -> Result<(BackendTarget, usize), Problem> {
    let (mut of, mut limit) = (BackendTarget::default(), SESSIONS);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| Problem::Invalid(format!("`{name}` is no UTF-8")))?
            .into_owned();
        match name {
            "pool" => of.pool = Some(value),
            "backend" => of.backend = Some(value),
            "limit" => match value.parse() {
                Ok(number) if (1..=MOST_SESSIONS).contains(&number) => limit = number,
                _ => return Err(Problem::Invalid(format!("`limit` is 1 to {MOST_SESSIONS}"))),
            },
            _ => {
                let known = "there are pool, backend and limit";
                return Err(Problem::Invalid(format!("unknown parameter {name:?}; {known}")));
            }
        }
    }
    Ok((of, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_for_sessions() {
        let (of, limit) = sessions_query("pool=a%20b&backend=%5B::1%5D:3000&limit=7").unwrap();
        assert_eq!(of.to_string(), "a b/[::1]:3000");
        assert_eq!(limit, 7);
        assert_eq!(sessions_query("").unwrap(), (BackendTarget::default(), SESSIONS));
        for bad in ["limit=0", "limit=10001", "limit=x", "limit", "sid=x", "pool=%ff"] {
            assert!(matches!(sessions_query(bad), Err(Problem::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn json_by_any_of_its_spellings() {
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
