//! Cross-origin requests: answers to preflights, and the fields that let a page read a response (Fetch standard).

use http::{Method, StatusCode};
use moorline_http::{FieldId, Head, RequestHead};

use super::local::LocalReply;
use crate::config::{CorsConfig, OriginPattern, OriginPatterns};

/// Fields of a response that only this filter writes.
const GRANTS: [&[u8]; 6] = [
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"access-control-allow-methods",
    b"access-control-allow-headers",
    b"access-control-expose-headers",
    b"access-control-max-age",
];

/// What the page of a request may do.
#[derive(Debug)]
pub(super) struct CorsGrant {
    /// Value of `Access-Control-Allow-Origin`; `None`: the page may not read the response.
    origin: Option<Box<[u8]>>,
    credentials: bool,
    /// Value of `Access-Control-Expose-Headers`; empty: none.
    expose: Box<str>,
    /// Whether the grant depends on the origin.
    varies: bool,
}

impl CorsGrant {
    /// Decides about a request.
    pub(super) fn of(config: &CorsConfig, request: &RequestHead) -> Self {
        let origin = request.head.only(FieldId::Origin);
        let any = config.origins == OriginPatterns::Any;
        let granted = origin.filter(|origin| is_allowed(&config.origins, origin));
        let origin = match granted {
            // Without credentials, one value serves every origin, whatever a cache keeps.
            Some(_) if any => Some(Box::from(&b"*"[..])),
            granted => granted.map(Box::from),
        };
        Self {
            origin,
            credentials: config.credentials,
            expose: config.expose.join(", ").into(),
            varies: !any,
        }
    }

    /// Whether the page may read the response.
    pub(super) fn is_granted(&self) -> bool {
        self.origin.is_some()
    }

    /// Replaces the CORS fields of a response.
    pub(super) fn apply(&self, head: &mut Head) {
        for name in GRANTS {
            head.remove_named(name);
        }
        if self.varies {
            head.append(FieldId::Vary, "Origin");
        }
        let Some(origin) = &self.origin else { return };
        head.set(FieldId::AccessControlAllowOrigin, origin);
        if self.credentials {
            head.set(FieldId::AccessControlAllowCredentials, "true");
        }
        if !self.expose.is_empty() {
            head.set_named("Access-Control-Expose-Headers", self.expose.as_bytes());
        }
    }
}

/// Returns the answer to a preflight; `None`: the request is not one.
pub(super) fn preflight(config: &CorsConfig, request: &RequestHead) -> Option<LocalReply> {
    let head = &request.head;
    let method = head.get(FieldId::AccessControlRequestMethod)?;
    if request.method != Method::OPTIONS || !head.has(FieldId::Origin) {
        return None;
    }
    let mut reply = LocalReply::new(StatusCode::NO_CONTENT);
    let fields = reply.fields();
    let grant = CorsGrant::of(config, request);
    grant.apply(fields);
    fields.append(FieldId::Vary, "Access-Control-Request-Method, Access-Control-Request-Headers");
    if grant.origin.is_none() || !allows_method(config, method) {
        // A preflight without a grant: the browser names the missing field.
        return Some(reply);
    }
    fields.set(FieldId::AccessControlAllowMethods, method);
    let asked = head.get(FieldId::AccessControlRequestHeaders);
    match &config.headers {
        Some(names) if !names.is_empty() => {
            fields.set(FieldId::AccessControlAllowHeaders, names.join(", "));
        }
        Some(_) => {}
        None => {
            if let Some(asked) = asked {
                fields.set(FieldId::AccessControlAllowHeaders, asked);
            }
        }
    }
    fields.set_fmt(FieldId::AccessControlMaxAge, format_args!("{}", config.max_age));
    Some(reply)
}

/// Whether a page may use this method. Simple methods need no permission, but appear in preflights of requests with
/// other fields.
fn allows_method(config: &CorsConfig, method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"POST")
        || config.methods.iter().any(|allowed| allowed.as_bytes() == method)
}

/// Whether these origins include one. Browsers send origins in lower case.
pub(super) fn is_allowed(origins: &OriginPatterns, origin: &[u8]) -> bool {
    let OriginPatterns::Listed(patterns) = origins else { return true };
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    patterns.iter().any(|pattern| match pattern {
        OriginPattern::Exact(exact) => exact == origin,
        OriginPattern::Subdomains { scheme, suffix } => {
            let host = origin.strip_prefix(scheme.as_str());
            let labels =
                host.and_then(|host| host.strip_suffix(suffix.as_str())?.strip_suffix('.'));
            labels.is_some_and(|labels| !labels.is_empty() && !labels.contains(['/', ':', '@']))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::request;

    fn config(origins: OriginPatterns) -> CorsConfig {
        CorsConfig {
            origins,
            methods: vec!["PUT".to_owned()],
            headers: None,
            expose: vec!["X-Request-Id".to_owned()],
            credentials: false,
            max_age: 600,
        }
    }

    fn listed() -> OriginPatterns {
        OriginPatterns::Listed(vec![
            OriginPattern::Exact("https://app.test".to_owned()),
            OriginPattern::Subdomains {
                scheme: "https://".to_owned(),
                suffix: "example.com".to_owned(),
            },
        ])
    }

    #[test]
    fn origins_match_whole() {
        for (origin, expected) in [
            ("https://app.test", true),
            ("https://a.example.com", true),
            ("https://a.b.example.com", true),
            ("http://app.test", false),
            ("https://app.test.evil.com", false),
            ("https://example.com", false),
            ("https://.example.com", false),
            ("https://evilexample.com", false),
            ("https://evil.com/.example.com", false),
            ("https://evil.com:1.example.com", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(&listed(), origin.as_bytes()), expected, "{origin}");
        }
    }

    #[test]
    fn fields_of_the_backend_are_replaced() {
        let asked = request("GET / HTTP/1.1\r\nOrigin: https://app.test\r\n");
        let grant = CorsGrant::of(&config(listed()), &asked);
        let mut head = LocalReply::new(StatusCode::OK);
        head.fields().set(FieldId::AccessControlAllowOrigin, "*");
        head.fields().set_named("Access-Control-Expose-Headers", "X-Secret");
        grant.apply(head.fields());
        let head = head.fields();
        let origins: Vec<_> = head.all(FieldId::AccessControlAllowOrigin).collect();
        assert_eq!(origins, [b"https://app.test"]);
        assert_eq!(head.get(FieldId::Vary), Some(&b"Origin"[..]));
        assert_eq!(head.named("access-control-expose-headers").next(), Some(&b"X-Request-Id"[..]));
        assert!(!head.has(FieldId::AccessControlAllowCredentials));
    }

    #[test]
    fn a_preflight_gets_what_the_configuration_grants() {
        let ask = |origin: &str, method: &str| {
            request(&format!(
                "OPTIONS / HTTP/1.1\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: {method}\r\n\
                 Access-Control-Request-Headers: x-app\r\n"
            ))
        };
        let answer = |origins, asked: &RequestHead| {
            let mut reply = preflight(&config(origins), asked).expect("a preflight");
            let methods =
                reply.fields().get(FieldId::AccessControlAllowMethods).map(<[u8]>::to_vec);
            (reply.fields().has(FieldId::AccessControlAllowOrigin), methods)
        };
        let put = || Some(b"PUT".to_vec());
        assert_eq!(answer(listed(), &ask("https://app.test", "PUT")), (true, put()));
        assert_eq!(answer(listed(), &ask("https://app.test", "DELETE")), (true, None));
        assert_eq!(answer(listed(), &ask("https://evil.test", "PUT")), (false, None));
        assert_eq!(answer(OriginPatterns::Any, &ask("https://evil.test", "PUT")), (true, put()));
        assert!(preflight(&config(listed()), &request("OPTIONS / HTTP/1.1\r\n")).is_none());
        let get = "GET / HTTP/1.1\r\nOrigin: a\r\nAccess-Control-Request-Method: PUT\r\n";
        assert!(preflight(&config(listed()), &request(get)).is_none());
    }
}
