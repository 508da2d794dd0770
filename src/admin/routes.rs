//! The table of the API's paths. A test compares it with `openapi.json`.

use http::Method;
use percent_encoding::percent_decode_str;

/// Maximum body size of most requests, in bytes.
const SHORT: usize = 64 << 10;
/// Maximum size of a body that contains a configuration, in bytes.
const LONG: usize = 8 << 20;

/// Action of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiAction {
    /// Returns information and changes nothing.
    Query(ApiQuery),
    /// Changes the process, and is logged.
    Command(ApiCommand),
}

/// A query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiQuery {
    Cache,
    Config,
    Explain,
    FindSession,
    Documentation,
    Documentations,
    DocumentationPage,
    OpenApi,
    Plan,
    Pool,
    Pools,
    Sessions,
    Status,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiCommand {
    AddBackend,
    CloseSession,
    Drain,
    PurgeCache,
    Reload,
    RemoveBackend,
    Revoke,
    SetWeight,
    Undrain,
    Upgrade,
}

/// Body that a route expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// None; a body is ignored.
    None,
    /// JSON up to this number of bytes.
    Json(usize),
    /// JSON up to this number of bytes; an empty body counts as `{}`.
    Optional(usize),
}

/// A method and a path, with `{…}` for its parameters.
pub(super) struct ApiRoute {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) action: ApiAction,
    pub(super) body: Body,
}

const fn query(method: Method, path: &'static str, query: ApiQuery, body: Body) -> ApiRoute {
    ApiRoute { method, path, action: ApiAction::Query(query), body }
}

const fn command(method: Method, path: &'static str, command: ApiCommand, body: Body) -> ApiRoute {
    ApiRoute { method, path, action: ApiAction::Command(command), body }
}

const BACKENDS: &str = "/v1/pools/{pool}/backends";
const BACKEND: &str = "/v1/pools/{pool}/backends/{backend}";

/// All routes.
pub(super) static ROUTES: [ApiRoute; 23] = [
    query(Method::GET, "/v1/status", ApiQuery::Status, Body::None),
    query(Method::GET, "/v1/pools", ApiQuery::Pools, Body::None),
    query(Method::GET, "/v1/pools/{pool}", ApiQuery::Pool, Body::None),
    command(Method::POST, BACKENDS, ApiCommand::AddBackend, Body::Json(SHORT)),
    command(Method::DELETE, BACKEND, ApiCommand::RemoveBackend, Body::None),
    command(Method::PATCH, BACKEND, ApiCommand::SetWeight, Body::Json(SHORT)),
    // The body is required, so that an incomplete request cannot drain everything by mistake.
    command(Method::POST, "/v1/drain", ApiCommand::Drain, Body::Json(SHORT)),
    command(Method::POST, "/v1/undrain", ApiCommand::Undrain, Body::Json(SHORT)),
    query(Method::GET, "/v1/sessions", ApiQuery::Sessions, Body::None),
    // A session id is a secret and must not be part of a URL.
    query(Method::POST, "/v1/sessions/find", ApiQuery::FindSession, Body::Json(SHORT)),
    command(Method::DELETE, "/v1/sessions/{id}", ApiCommand::CloseSession, Body::None),
    query(Method::GET, "/v1/cache", ApiQuery::Cache, Body::None),
    command(Method::POST, "/v1/cache/purge", ApiCommand::PurgeCache, Body::Json(SHORT)),
    command(Method::POST, "/v1/revocations", ApiCommand::Revoke, Body::Json(SHORT)),
    command(Method::POST, "/v1/reload", ApiCommand::Reload, Body::Optional(SHORT)),
    query(Method::POST, "/v1/plan", ApiQuery::Plan, Body::Optional(LONG)),
    query(Method::GET, "/v1/config", ApiQuery::Config, Body::None),
    query(Method::POST, "/v1/explain", ApiQuery::Explain, Body::Json(SHORT)),
    command(Method::POST, "/v1/upgrade", ApiCommand::Upgrade, Body::Optional(SHORT)),
    query(Method::GET, "/v1/openapi", ApiQuery::Documentations, Body::None),
    query(Method::GET, "/v1/openapi/{name}", ApiQuery::Documentation, Body::None),
    query(Method::GET, "/openapi/{name}", ApiQuery::DocumentationPage, Body::None),
    query(Method::GET, "/v1/openapi.json", ApiQuery::OpenApi, Body::None),
];

/// Why no route was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Unknown path.
    Path,
    /// The path allows only these methods.
    Method(String),
}

/// Returns the route of a request and its path parameters, percent-decoded.
pub(super) fn find(
    method: &Method,
    path: &str,
) -> Result<(&'static ApiRoute, Vec<String>), Missing> {
    let mut allowed: Vec<&str> = Vec::new();
    for route in &ROUTES {
        let Some(parameters) = matches(route.path, path) else { continue };
        if route.method == method {
            return Ok((route, parameters));
        }
        allowed.push(route.method.as_str());
    }
    match allowed[..] {
        [] => Err(Missing::Path),
        _ => Err(Missing::Method(allowed.join(", "))),
    }
}

/// Returns the parameters of `path`, if it matches `pattern`.
fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    let mut parameters = Vec::new();
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(parameters),
            (Some(part), Some(segment)) if part.starts_with('{') => {
                let name = percent_decode_str(segment).decode_utf8().ok()?;
                if name.is_empty() {
                    return None;
                }
                parameters.push(name.into_owned());
            }
            (Some(part), Some(segment)) if part == segment => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> (ApiAction, Vec<String>) {
        let (route, parameters) = find(&method, path).unwrap();
        (route.action, parameters)
    }

    #[test]
    fn path_parameters_are_decoded_after_the_path_is_split() {
        let (action, parameters) = found(Method::DELETE, "/v1/pools/a%2Fb/backends/%5B::1%5D:3000");
        assert_eq!(action, ApiAction::Command(ApiCommand::RemoveBackend));
        assert_eq!(parameters, ["a/b", "[::1]:3000"]);
        let (action, parameters) = found(Method::GET, "/v1/pools/m%C3%B6we");
        assert_eq!(
            (action, parameters),
            (ApiAction::Query(ApiQuery::Pool), vec!["möwe".to_owned()])
        );
    }

    #[test]
    fn unknown_paths_have_no_route() {
        for path in ["/", "/v1", "/v1/", "/v1/status/", "//v1/status", "/v2/status", "/metrics"] {
            assert_eq!(find(&Method::GET, path).err(), Some(Missing::Path), "{path}");
        }
        for path in ["/v1/pools/", "/v1/pools/%ff", "/v1/pools/a/backends/b/c"] {
            assert_eq!(find(&Method::GET, path).err(), Some(Missing::Path), "{path}");
        }
    }

    #[test]
    fn an_unknown_method_reports_the_allowed_methods() {
        let allowed = |method, path| match find(&method, path) {
            Err(Missing::Method(allow)) => allow,
            other => panic!("{path}: {:?}", other.map(|(route, _)| route.action)),
        };
        assert_eq!(allowed(Method::POST, "/v1/status"), "GET");
        assert_eq!(allowed(Method::GET, "/v1/pools/a/backends/b"), "DELETE, PATCH");
        assert_eq!(allowed(Method::HEAD, "/v1/drain"), "POST");
    }

    #[test]
    fn find_is_a_path_for_post_and_a_session_id_for_delete() {
        assert_eq!(
            found(Method::POST, "/v1/sessions/find").0,
            ApiAction::Query(ApiQuery::FindSession)
        );
        let (action, parameters) = found(Method::DELETE, "/v1/sessions/find");
        assert_eq!(
            (action, parameters),
            (ApiAction::Command(ApiCommand::CloseSession), vec!["find".to_owned()])
        );
    }
}
