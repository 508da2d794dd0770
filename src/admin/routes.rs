//! The API's paths: one closed table, held by a test against `openapi.json`. Pure.

use http::Method;
use percent_encoding::percent_decode_str;

/// Longest body of an order.
const SHORT: usize = 64 << 10;
/// Longest body that holds a whole configuration.
const LONG: usize = 8 << 20;

/// What is done at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiAction {
    /// Something is asked; nothing changes.
    Ask(ApiQuery),
    /// Something is ordered, and logged.
    Do(ApiCommand),
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiQuery {
    Config,
    Explain,
    FindSession,
    OpenApi,
    Plan,
    Pool,
    Pools,
    Sessions,
    Status,
}

/// What can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiCommand {
    AddBackend,
    CloseSession,
    Drain,
    Reload,
    RemoveBackend,
    SetWeight,
    Undrain,
    Upgrade,
}

/// What a request brings beside its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing that is looked at.
    None,
    /// JSON of at most so many bytes.
    Json(usize),
    /// The same, or nothing at all, which is `{}`.
    Optional(usize),
}

/// A method and a path with `{…}` for what is named there.
pub(super) struct ApiRoute {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) action: ApiAction,
    pub(super) body: Body,
}

const fn ask(method: Method, path: &'static str, question: ApiQuery, body: Body) -> ApiRoute {
    ApiRoute { method, path, action: ApiAction::Ask(question), body }
}

const fn order(method: Method, path: &'static str, order: ApiCommand, body: Body) -> ApiRoute {
    ApiRoute { method, path, action: ApiAction::Do(order), body }
}

const BACKENDS: &str = "/v1/pools/{pool}/backends";
const BACKEND: &str = "/v1/pools/{pool}/backends/{backend}";

/// Everything that is served.
pub(super) static ROUTES: [ApiRoute; 17] = [
    ask(Method::GET, "/v1/status", ApiQuery::Status, Body::None),
    ask(Method::GET, "/v1/pools", ApiQuery::Pools, Body::None),
    ask(Method::GET, "/v1/pools/{pool}", ApiQuery::Pool, Body::None),
    order(Method::POST, BACKENDS, ApiCommand::AddBackend, Body::Json(SHORT)),
    order(Method::DELETE, BACKEND, ApiCommand::RemoveBackend, Body::None),
    order(Method::PATCH, BACKEND, ApiCommand::SetWeight, Body::Json(SHORT)),
    // Without a body, a slip of the hand would drain everything.
    order(Method::POST, "/v1/drain", ApiCommand::Drain, Body::Json(SHORT)),
    order(Method::POST, "/v1/undrain", ApiCommand::Undrain, Body::Json(SHORT)),
    ask(Method::GET, "/v1/sessions", ApiQuery::Sessions, Body::None),
    // A session id is a secret: it has no place in a URL.
    ask(Method::POST, "/v1/sessions/find", ApiQuery::FindSession, Body::Json(SHORT)),
    order(Method::DELETE, "/v1/sessions/{id}", ApiCommand::CloseSession, Body::None),
    order(Method::POST, "/v1/reload", ApiCommand::Reload, Body::Optional(SHORT)),
    ask(Method::POST, "/v1/plan", ApiQuery::Plan, Body::Optional(LONG)),
    ask(Method::GET, "/v1/config", ApiQuery::Config, Body::None),
    ask(Method::POST, "/v1/explain", ApiQuery::Explain, Body::Json(SHORT)),
    order(Method::POST, "/v1/upgrade", ApiCommand::Upgrade, Body::Optional(SHORT)),
    ask(Method::GET, "/v1/openapi.json", ApiQuery::OpenApi, Body::None),
];

/// Why there is no route.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nothing is at this path.
    Path,
    /// Something is, by these methods.
    Method(String),
}

/// The route of a request, and what its path names, percent-decoded.
pub(super) fn find(
    method: &Method,
    path: &str,
) -> Result<(&'static ApiRoute, Vec<String>), Missing> {
    let mut others: Vec<&str> = Vec::new();
    for route in &ROUTES {
        let Some(named) = matches(route.path, path) else { continue };
        if route.method == method {
            return Ok((route, named));
        }
        others.push(route.method.as_str());
    }
    match others[..] {
        [] => Err(Missing::Path),
        _ => Err(Missing::Method(others.join(", "))),
    }
}

/// What `path` names at the places of `pattern`, where it is one of its kind.
fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut named = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(named),
            (Some(place), Some(segment)) if place.starts_with('{') => {
                let name = percent_decode_str(segment).decode_utf8().ok()?;
                if name.is_empty() {
                    return None;
                }
                named.push(name.into_owned());
            }
            (Some(place), Some(segment)) if place == segment => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> (ApiAction, Vec<String>) {
        let (route, named) = find(&method, path).unwrap();
        (route.action, named)
    }

    #[test]
    fn names_in_a_path_are_decoded_after_it_is_cut() {
        let (action, named) = found(Method::DELETE, "/v1/pools/a%2Fb/backends/%5B::1%5D:3000");
        assert_eq!(action, ApiAction::Do(ApiCommand::RemoveBackend));
        assert_eq!(named, ["a/b", "[::1]:3000"]);
        let (action, named) = found(Method::GET, "/v1/pools/m%C3%B6we");
        assert_eq!((action, named), (ApiAction::Ask(ApiQuery::Pool), vec!["möwe".to_owned()]));
    }

    #[test]
    fn what_is_elsewhere_is_not_here() {
        for path in ["/", "/v1", "/v1/", "/v1/status/", "//v1/status", "/v2/status", "/metrics"] {
            assert_eq!(find(&Method::GET, path).err(), Some(Missing::Path), "{path}");
        }
        for path in ["/v1/pools/", "/v1/pools/%ff", "/v1/pools/a/backends/b/c"] {
            assert_eq!(find(&Method::GET, path).err(), Some(Missing::Path), "{path}");
        }
    }

    #[test]
    fn other_methods_are_told_which_there_are() {
        let told = |method, path| match find(&method, path) {
            Err(Missing::Method(allow)) => allow,
            other => panic!("{path}: {:?}", other.map(|(route, _)| route.action)),
        };
        assert_eq!(told(Method::POST, "/v1/status"), "GET");
        assert_eq!(told(Method::GET, "/v1/pools/a/backends/b"), "DELETE, PATCH");
        assert_eq!(told(Method::HEAD, "/v1/drain"), "POST");
    }

    #[test]
    fn a_session_called_find_is_none() {
        assert_eq!(
            found(Method::POST, "/v1/sessions/find").0,
            ApiAction::Ask(ApiQuery::FindSession)
        );
        let (action, named) = found(Method::DELETE, "/v1/sessions/find");
        assert_eq!(
            (action, named),
            (ApiAction::Do(ApiCommand::CloseSession), vec!["find".to_owned()])
        );
    }
}
