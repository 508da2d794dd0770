//! The cookies of one client.

use http::{HeaderMap, HeaderValue, header};

/// Cookies, where they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Jar(
    /// As in a `Cookie` field: `name=value; name=value`.
    Option<String>,
);

impl Jar {
    /// An empty one, which stays empty unless it `keeps` what it is given.
    pub(crate) fn new(keeps: bool) -> Self {
        Self(keeps.then(String::new))
    }

    /// The fields of a request that carry the cookies.
    pub(crate) fn fields(&self) -> HeaderMap {
        let cookies = self.0.as_deref().filter(|cookies| !cookies.is_empty());
        let value = cookies.and_then(|cookies| HeaderValue::from_str(cookies).ok());
        value.map(|value| (header::COOKIE, value)).into_iter().collect()
    }

    /// Keeps the cookies of a reply. Attributes are not looked at: a client talks to one site, and its
    /// life is shorter than its cookies'.
    pub(crate) fn keep(&mut self, reply: &HeaderMap) {
        let Some(jar) = &mut self.0 else { return };
        for field in reply.get_all(header::SET_COOKIE) {
            let Ok(field) = std::str::from_utf8(field.as_bytes()) else { continue };
            let pair = field.split(';').next().unwrap_or_default().trim();
            let Some((name, _)) = pair.split_once('=') else { continue };
            let others = jar
                .split("; ")
                .filter(|old| old.split_once('=').is_some_and(|(old_name, _)| old_name != name));
            *jar = others.chain([pair]).collect::<Vec<_>>().join("; ");
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
    fn the_last_value_of_each_name_is_kept() {
        let mut jar = Jar::new(true);
        assert!(jar.fields().is_empty());
        jar.keep(&reply(&["a=1; Path=/; HttpOnly", "b=2"]));
        jar.keep(&reply(&["a=3=x; Secure", "nonsense"]));
        assert_eq!(jar.fields()[header::COOKIE], "b=2; a=3=x");
    }

    #[test]
    fn who_keeps_none_sends_none() {
        let mut jar = Jar::new(false);
        jar.keep(&reply(&["a=1"]));
        assert!(jar.fields().is_empty());
    }
}
