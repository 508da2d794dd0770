//! The cookies of one client.

use http::{HeaderMap, HeaderValue, header};

/// Cookies, or `None` if the client does not store any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CookieJar(
    /// As in a `Cookie` field: `name=value; name=value`.
    Option<String>,
);

impl CookieJar {
    /// An empty jar, which stores cookies only if `enabled` is set.
    pub(crate) fn new(enabled: bool) -> Self {
        Self(enabled.then(String::new))
    }

    /// Returns the headers of a request that carry the cookies.
    pub(crate) fn headers(&self) -> HeaderMap {
        let cookies = self.0.as_deref().filter(|cookies| !cookies.is_empty());
        let value = cookies.and_then(|cookies| HeaderValue::from_str(cookies).ok());
        value.map(|value| (header::COOKIE, value)).into_iter().collect()
    }

    /// Stores the cookies of a reply. Attributes are ignored: a client uses one site, for less time than
    /// cookies live.
    pub(crate) fn store(&mut self, reply: &HeaderMap) {
        let Some(cookies) = &mut self.0 else { return };
        for field in reply.get_all(header::SET_COOKIE) {
            let Ok(field) = std::str::from_utf8(field.as_bytes()) else { continue };
            let pair = field.split(';').next().unwrap_or_default().trim();
            let Some((name, _)) = pair.split_once('=') else { continue };
            let others = cookies
                .split("; ")
                .filter(|old| old.split_once('=').is_some_and(|(old_name, _)| old_name != name));
            *cookies = others.chain([pair]).collect::<Vec<_>>().join("; ");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(cookies: &[&'static str]) -> HeaderMap {
        let mut reply = HeaderMap::new();
        for cookie in cookies {
            reply.append(header::SET_COOKIE, HeaderValue::from_static(cookie));
        }
        reply
    }

    #[test]
    fn last_value_of_each_name_is_stored() {
        let mut cookies = CookieJar::new(true);
        assert!(cookies.headers().is_empty());
        cookies.store(&reply(&["a=1; Path=/; HttpOnly", "b=2"]));
        cookies.store(&reply(&["a=3=x; Secure", "nonsense"]));
        assert_eq!(cookies.headers()[header::COOKIE], "b=2; a=3=x");
    }

    #[test]
    fn client_without_cookies_sends_none() {
        let mut cookies = CookieJar::new(false);
        cookies.store(&reply(&["a=1"]));
        assert!(cookies.headers().is_empty());
    }
}
