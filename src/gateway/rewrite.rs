//! Changes of the path for the backend.

use std::borrow::Cow;

use moorline_http::{HeadFault, RequestHead};
use regex::Regex;

use crate::config::{self, PathRewrite, path};

/// A change of the path.
#[derive(Debug)]
pub(super) enum Rewrite {
    /// Replaces a prefix, in whole segments.
    Prefix { from: Box<str>, to: Box<str> },
    /// Replaces all of the path.
    Whole(Box<str>),
    /// Replaces what matches from start to end.
    Pattern { pattern: Box<Regex>, with: Box<str> },
}

impl Rewrite {
    /// Creates the change that the configuration describes; `None` if its pattern is invalid, which the check of the
    /// configuration rules out.
    pub(super) fn new(config: &PathRewrite) -> Option<Self> {
        Some(match config {
            PathRewrite::Prefix { from, to } => {
                Self::Prefix { from: from.as_str().into(), to: to.as_str().into() }
            }
            PathRewrite::Whole(path) => Self::Whole(path.as_str().into()),
            PathRewrite::Pattern { pattern, with } => {
                let pattern = Box::new(config::filters::whole_path(pattern).ok()?);
                Self::Pattern { pattern, with: with.as_str().into() }
            }
        })
    }

    /// Returns the new path of a path in normal form; `None`: it stays.
    fn path<'a>(&'a self, normal: &'a str) -> Option<Cow<'a, str>> {
        match self {
            Self::Prefix { from, to } => {
                let rest = normal.strip_prefix(&**from)?;
                // A prefix ends where a segment ends.
                match rest {
                    "" if to.is_empty() => Some("/".into()),
                    _ if rest.is_empty() || rest.starts_with('/') => {
                        Some(format!("{to}{rest}").into())
                    }
                    _ => None,
                }
            }
            Self::Whole(path) => Some((&**path).into()),
            Self::Pattern { pattern, with } => {
                pattern.is_match(normal).then(|| pattern.replace(normal, &**with))
            }
        }
    }

    /// Returns the request with its new path. The query stays.
    ///
    /// # Errors
    /// The new path is not valid in a request.
    pub(super) fn apply(&self, request: RequestHead) -> Result<RequestHead, HeadFault> {
        let normal = path::normal(request.path());
        let Some(path) = self.path(&normal) else { return Ok(request) };
        let target = match request.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        request.with_target(&target)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewritten(config: &PathRewrite, path: &str) -> String {
        let rewrite = Rewrite::new(config).unwrap();
        rewrite.path(&path::normal(path)).map_or_else(|| path.to_owned(), Cow::into_owned)
    }

    fn prefix(from: &str, to: &str) -> PathRewrite {
        PathRewrite::Prefix { from: from.to_owned(), to: to.to_owned() }
    }

    #[test]
    fn a_prefix_is_replaced_in_whole_segments() {
        for (from, to, path, expected) in [
            ("/app1", "", "/app1/socket.io/", "/socket.io/"),
            ("/app1", "", "/app1", "/"),
            ("/app1", "", "/app1/", "/"),
            ("/app1", "", "/app10/x", "/app10/x"),
            ("/app1", "", "/other", "/other"),
            ("/app1", "", "//app1//x", "/x"),
            ("/app1", "", "/%61pp1/x", "/x"),
            ("/v1", "/api/v1", "/v1/users", "/api/v1/users"),
            ("/v1", "/api", "/v1", "/api"),
            ("", "/api", "/x", "/api/x"),
        ] {
            assert_eq!(rewritten(&prefix(from, to), path), expected, "{path}");
        }
    }

    #[test]
    fn a_pattern_replaces_whole_paths() {
        let config = PathRewrite::Pattern {
            pattern: "/users/([0-9]+)(?P<rest>/.*)?".to_owned(),
            with: "/u/$1${rest}".to_owned(),
        };
        assert_eq!(rewritten(&config, "/users/7/x"), "/u/7/x");
        assert_eq!(rewritten(&config, "/users/7"), "/u/7");
        assert_eq!(rewritten(&config, "/users/x"), "/users/x");
        assert_eq!(rewritten(&PathRewrite::Whole("/y".to_owned()), "/a/b"), "/y");
    }

    proptest! {
        #[test]
        fn a_new_path_is_a_path(path in "/[a-z0-9/%._-]{0,40}", from in "(/[a-z]{1,3}){0,2}", to in "(/[a-z]{1,3}){0,2}") {
            let new = rewritten(&prefix(&from, &to), &path);
            prop_assert!(new.starts_with('/'), "{new}");
        }
    }
}
