//! Logins of browsers at an OpenID provider: the authorization code flow with PKCE (OpenID Connect Core 1.0, RFC 7636).
//!
//! The proxy stores nothing about a login. A browser has two cookies, which only holders of the cookie keys can read or make:
//! while it logs in, one with a secret, from which `state`, `nonce` and the PKCE verifier are derived; then one with the
//! identity. Both are bound to the configuration that has made them ([`LoginSeal`]).
//!
//! Invariants:
//!
//! - The browser that finishes a login is the one that has begun it: `state` is sealed for the secret of its cookie.
//! - A redirect leads to the provider, or to this host: the target in `state` is a path.
//! - What the provider says is used only if its ID token was verified. Its configuration must name the configured issuer.
//! - If the provider is down, known logins go on, and new ones get a 503.
//!
//! Tokens are verified by [`JwtVerifier`](super::JwtVerifier), as everywhere. The crate `openidconnect` is not used: it has
//! its own cryptography, with RSA of the crate `rsa`, which has an open advisory (RUSTSEC-2023-0071).

mod cookies;
mod exchange;
mod parameters;
mod pending;
mod provider;
mod seal;
mod session;

use std::{fmt, sync::Arc};

use moorline_http::{Head, RequestHead};

use self::{
    cookies::CookieNames,
    parameters::{AnswerParameters, with_query},
    pending::{BrowserSecret, PendingLogin},
    session::LoginSession,
};
pub(crate) use self::{provider::OidcProvider, seal::LoginSeal};
use super::{AuthFault, Identity, now};
use crate::config::OidcConfig;

/// Logins of one configuration.
#[derive(Debug)]
pub(crate) struct OidcLogin {
    provider: Arc<OidcProvider>,
    seal: LoginSeal,
    names: CookieNames,
}

/// What a login needs to know about a request, besides its fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoginFacts<'a> {
    /// Whether the browser uses TLS.
    pub(crate) secure: bool,
    /// Requested host, with its port as sent.
    pub(crate) host: &'a str,
    /// Path as sent.
    pub(crate) path: &'a str,
    /// Query, without its `?`.
    pub(crate) query: Option<&'a str>,
}

/// A path that belongs to the login, not to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginPage {
    /// The provider sends the browser back to it.
    Callback,
    /// Ends the login.
    Logout,
}

/// The reply to a browser.
#[derive(Debug)]
pub(crate) struct LoginReply {
    /// Next page of the browser; `None`: a page says that the client is logged out.
    pub(crate) location: Option<String>,
    /// Values of `Set-Cookie`.
    pub(crate) cookies: Vec<String>,
}

/// Why a login does not go on.
#[derive(Debug)]
pub(crate) enum LoginFault {
    /// The browser, or the provider on its behalf, has not shown what is needed; with the reason.
    Failed(String),
    /// The provider does not answer, or not as it must; with the reason.
    Unavailable(String),
}

impl fmt::Display for LoginFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) | Self::Unavailable(reason) => f.write_str(reason),
        }
    }
}

/// The host and the scheme of a request, as the browser knows them.
struct BrowserOrigin {
    /// Scheme and authority.
    text: String,
    secure: bool,
}

impl BrowserOrigin {
    /// Without TLS, cookies are safe only on this machine.
    fn of(facts: &LoginFacts<'_>) -> Result<Self, LoginFault> {
        let LoginFacts { secure, host, .. } = *facts;
        if host.is_empty() {
            return Err(LoginFault::Failed("the request names no host".to_owned()));
        }
        if !secure && !is_local(host) {
            let reason = "a login needs https, except on localhost";
            return Err(LoginFault::Failed(reason.to_owned()));
        }
        let scheme = if secure { "https" } else { "http" };
        Ok(Self { text: format!("{scheme}://{host}"), secure })
    }
}

/// Whether a host is this machine for every browser.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let name = name.to_ascii_lowercase();
    matches!(&*name, "localhost" | "127.0.0.1" | "[::1]") || name.ends_with(".localhost")
}

/// A login that the provider has to answer.
pub(crate) struct StartedLogin {
    origin: BrowserOrigin,
    secret: BrowserSecret,
    target: String,
}

/// A login that the browser has lost.
pub(crate) struct EndedLogin {
    origin: BrowserOrigin,
    cookies: Vec<String>,
}

/// The answer of the provider, as the browser brings it.
pub(crate) struct LoginAnswer {
    origin: BrowserOrigin,
    pending: PendingLogin,
    parameters: AnswerParameters,
    /// Whether the browser has a login already.
    has_session: bool,
    /// Number of cookies of an earlier login.
    parts: usize,
}

impl OidcLogin {
    /// Creates the logins of a configuration.
    pub(crate) fn new(provider: Arc<OidcProvider>, seal: LoginSeal) -> Self {
        let names = CookieNames::of(provider.config());
        Self { provider, seal, names }
    }

    fn config(&self) -> &OidcConfig {
        self.provider.config()
    }

    /// Whether a path belongs to the login.
    pub(crate) fn page(&self, path: &str) -> Option<LoginPage> {
        let OidcConfig { callback, logout, .. } = self.config();
        match path {
            path if path == callback => Some(LoginPage::Callback),
            path if path == logout => Some(LoginPage::Logout),
            _ => None,
        }
    }

    /// Returns the identity of the browser's login.
    ///
    /// # Errors
    /// It has none, or one that is not valid any more.
    pub(crate) fn identity(&self, head: &Head, secure: bool) -> Result<Arc<Identity>, AuthFault> {
        let Some(value) = self.names.session_value(head, secure) else {
            return Err(AuthFault::Missing);
        };
        let opened = self.seal.open(&self.names.session_context(secure), &value);
        let session = opened.and_then(|plain| LoginSession::parse(&plain));
        let session = session.ok_or(AuthFault::Malformed("the cookie of the login"))?;
        let identity = Arc::new(session.into_identity(self.config()));
        match identity.expires.is_some_and(|ends| ends > now()) {
            true => Ok(identity),
            false => Err(AuthFault::Expired(identity)),
        }
    }

    /// Removes the cookies of logins from a request for a backend.
    pub(crate) fn strip(head: &mut Head) {
        cookies::strip(head);
    }

    /// Begins a login, after which the browser gets this page.
    ///
    /// # Errors
    /// The browser does not use TLS.
    pub(crate) fn start(
        &self,
        head: &Head,
        facts: &LoginFacts<'_>,
    ) -> Result<StartedLogin, LoginFault> {
        let origin = BrowserOrigin::of(facts)?;
        let secret = self.secret(head, origin.secure).filter(|secret| secret.is_young(now()));
        let secret = secret.map_or_else(|| BrowserSecret::new(now()), Ok)?;
        Ok(StartedLogin { origin, secret, target: pending::target(facts.path, facts.query) })
    }

    /// Sends the browser to the provider.
    ///
    /// # Errors
    /// The provider cannot be reached.
    pub(crate) async fn redirect(&self, started: StartedLogin) -> Result<LoginReply, LoginFault> {
        let StartedLogin { origin, secret, target } = started;
        let provider = self.provider.discovered().await?;
        let (login, state) =
            PendingLogin::new(&secret, target, &self.seal, &self.names.state_context())?;
        let OidcConfig { client_id, scopes, callback, .. } = self.config();
        let location = with_query(
            &provider.authorization,
            &[
                ("response_type", "code"),
                ("client_id", client_id),
                ("redirect_uri", &format!("{}{callback}", origin.text)),
                ("scope", &scopes.join(" ")),
                ("state", &state),
                ("nonce", &login.nonce()),
                ("code_challenge", &login.challenge()),
                ("code_challenge_method", "S256"),
            ],
        );
        let context = self.names.secret_context(origin.secure);
        let sealed = self.seal.seal(&context, &secret.to_bytes());
        let sealed = sealed.ok_or_else(seal::no_randomness)?;
        let cookies = vec![self.names.set_secret(&sealed, origin.secure)];
        Ok(LoginReply { location: Some(location), cookies })
    }

    /// Reads the answer of the provider, which the browser brings.
    ///
    /// # Errors
    /// The browser has not begun this login.
    pub(crate) fn answer(
        &self,
        head: &Head,
        facts: &LoginFacts<'_>,
        has_session: bool,
    ) -> Result<LoginAnswer, LoginFault> {
        let failed = |reason: &str| LoginFault::Failed(reason.to_owned());
        let origin = BrowserOrigin::of(facts)?;
        let parameters = AnswerParameters::of(facts.query.unwrap_or_default())?;
        let state = parameters.state.as_deref();
        let state = state.ok_or_else(|| failed("the callback has no `state`"))?;
        let secret = self.secret(head, origin.secure);
        let secret = secret.ok_or_else(|| {
            failed("the browser has no cookie of a login that began in the last 10 minutes")
        })?;
        let pending = PendingLogin::open(&secret, state, &self.seal, &self.names.state_context());
        let pending = pending
            .filter(|login| login.is_open(now()))
            .ok_or_else(|| failed("the `state` is not of a login of this browser, or is old"))?;
        let parts = self.names.session_parts(head, origin.secure);
        Ok(LoginAnswer { origin, pending, parameters, has_session, parts })
    }

    /// Finishes a login, and sends the browser to the page that it wanted.
    ///
    /// # Errors
    /// The provider has refused the login, or its answer is not valid.
    pub(crate) async fn finish(&self, answer: LoginAnswer) -> Result<LoginReply, LoginFault> {
        let LoginAnswer { origin, pending, parameters, has_session, parts } = answer;
        let AnswerParameters { code, error, issuer, .. } = parameters;
        let location = Some(format!("{}{}", origin.text, pending.target()));
        if has_session {
            // Another tab has finished its login before.
            return Ok(LoginReply { location, cookies: Vec::new() });
        }
        let provider = self.provider.discovered().await?;
        let config = self.config();
        // The provider that answers is the one that was asked (RFC 9207 §2.4).
        match issuer {
            Some(issuer) if issuer != config.issuer => {
                return Err(LoginFault::Failed(format!(
                    "the answer is from the issuer {issuer:?}"
                )));
            }
            None if provider.names_issuer => {
                return Err(LoginFault::Failed("the answer does not name its issuer".to_owned()));
            }
            _ => {}
        }
        if let Some(error) = error {
            return Err(LoginFault::Failed(format!("the provider refuses the login: {error:?}")));
        }
        let code = code.ok_or_else(|| LoginFault::Failed("the callback has no code".to_owned()))?;
        let redirect = format!("{}{}", origin.text, config.callback);
        let (token, identity) =
            exchange::exchange(config, &provider, (&code, &pending.verifier()), &redirect).await?;
        exchange::check_id_token(&identity, config, &pending.nonce(), now())?;
        let session = LoginSession::new(&identity, token.scope, config, now())?;
        let context = self.names.session_context(origin.secure);
        let sealed = self.seal.seal(&context, &session.to_bytes());
        let sealed = sealed.ok_or_else(seal::no_randomness)?;
        let lifetime = session.ends().saturating_sub(now());
        let cookies = self.names.set_session(&sealed, lifetime, origin.secure, parts);
        let cookies = cookies.ok_or_else(|| {
            LoginFault::Failed("the claims do not fit into cookies: keep fewer `claims`".to_owned())
        })?;
        Ok(LoginReply { location, cookies })
    }

    /// Takes the login from a browser.
    ///
    /// # Errors
    /// The browser does not use TLS.
    pub(crate) fn leave(
        &self,
        head: &Head,
        facts: &LoginFacts<'_>,
    ) -> Result<EndedLogin, LoginFault> {
        let origin = BrowserOrigin::of(facts)?;
        let cookies = self.names.clear(head, origin.secure);
        Ok(EndedLogin { origin, cookies })
    }

    /// Ends a login at the provider, too. Goes on without a provider that does not answer.
    pub(crate) async fn log_out(&self, ended: EndedLogin) -> LoginReply {
        let EndedLogin { origin, cookies } = ended;
        let provider = self.provider.discovered().await.ok();
        let OidcConfig { client_id, .. } = self.config();
        let after = self.page_after_logout(&origin);
        let end = provider.as_ref().and_then(|provider| provider.end_session.as_deref());
        let location = match (end, after) {
            (Some(end), Some(after)) => {
                let parameters =
                    [("client_id", &**client_id), ("post_logout_redirect_uri", &after)];
                Some(with_query(end, &parameters))
            }
            (Some(end), None) => Some(with_query(end, &[("client_id", client_id)])),
            (None, after) => after,
        };
        LoginReply { location, cookies }
    }

    fn page_after_logout(&self, origin: &BrowserOrigin) -> Option<String> {
        let after = self.config().after_logout.as_ref()?;
        Some(match after.starts_with('/') {
            true => format!("{}{after}", origin.text),
            false => after.clone(),
        })
    }

    /// The secret of a browser that logs in.
    fn secret(&self, head: &Head, secure: bool) -> Option<BrowserSecret> {
        let value = self.names.secret_value(head, secure)?;
        let plain = self.seal.open(&self.names.secret_context(secure), value)?;
        BrowserSecret::parse(&plain).filter(|secret| secret.is_open(now()))
    }
}

/// Whether a browser shows the response to a request as a page, so that it can log in. Everything else needs a 401: scripts,
/// upgrades and event streams cannot show the page of a provider, and a form would lose its content.
pub(crate) fn is_navigation(request: &RequestHead) -> bool {
    if request.method != http::Method::GET {
        return false;
    }
    match request.head.named("sec-fetch-mode").next() {
        Some(mode) => mode == b"navigate",
        None => request.head.tokens(moorline_http::FieldId::Accept).any(|media| {
            media.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"text/html"))
        }),
    }
}

#[cfg(test)]
mod tests;
