//! Logins at an OpenID provider: the pages that belong to them, and the way of a browser to the provider.
//!
//! Whatever does not show a page gets a 401: it can neither follow a redirect to the provider, nor show its pages.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use http::{Method, StatusCode};
use moorline_http::{FieldId, RequestHead};

use super::{
    AuthCheck, AuthFilter,
    credential::{Credential, CredentialCheck, Proof},
    refusal::{AuthRefusal, login_failed},
};
use crate::{
    auth::{
        self, AuthFault, Identity, LoginFacts, LoginFault, LoginPage, LoginReply, OidcLogin,
        is_navigation,
    },
    gateway::{body::ReplyBody, local::LocalReply, variables::FilterFacts},
};

/// The page of a browser that has logged out, if the provider has none.
const LOGGED_OUT: &str = "<!doctype html>\n<html lang=\"en\">\n<title>Logged out</title>\n<p>You are logged out.</p>\n</html>\n";

impl AuthFilter {
    /// Answers a request for a page of the login.
    pub(super) fn login_page(
        &self,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
    ) -> Option<AuthCheck> {
        let login = self.login.as_ref()?;
        if facts.upgrade || facts.is_engine {
            return None;
        }
        let about = about(facts);
        match (login.page(facts.path)?, &request.method) {
            (LoginPage::Callback, &Method::GET) => {
                let known = self.logged_in(login, request, facts);
                let answer = login.answer(&request.head, &about, known.is_ok());
                let login = Arc::clone(login);
                Some(replies(StatusCode::FOUND, async move { login.finish(answer?).await }))
            }
            (LoginPage::Logout, &Method::GET | &Method::POST) => {
                let known = self.logged_in(login, request, facts).ok();
                let left = login.leave(&request.head, &about);
                let (login, identities) = (Arc::clone(login), Arc::clone(&self.identities));
                Some(replies(StatusCode::SEE_OTHER, async move {
                    let ended = known.and_then(|identity| identity.login.zip(identity.expires));
                    if let Some((number, until)) = ended {
                        identities.end_login(number, until, auth::now());
                    }
                    Ok(login.log_out(left?).await)
                }))
            }
            _ => None,
        }
    }

    /// The login of a browser, as a credential.
    ///
    /// # Errors
    /// There is none, or the browser has to log in.
    pub(super) fn login_credential(
        &self,
        login: &OidcLogin,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
    ) -> Result<Credential, AuthFault> {
        let known = match self.logged_in(login, request, facts) {
            Ok(identity) => Ok(Proof::of(identity)),
            Err(AuthFault::Missing) if !shows_page(request, facts) => {
                return Err(AuthFault::Missing);
            }
            Err(_) if shows_page(request, facts) => return Err(AuthFault::LoginNeeded),
            Err(fault) => Err(fault),
        };
        Ok(Credential::ambient(CredentialCheck::Done(known), "a login"))
    }

    /// Sends a browser to the provider.
    pub(super) fn begin_login(&self, request: &RequestHead, facts: &FilterFacts<'_>) -> AuthCheck {
        let Some(login) = &self.login else {
            return AuthCheck::Done(Err(self.refusal(AuthFault::Missing, true)));
        };
        let started = login.start(&request.head, &about(facts));
        let login = Arc::clone(login);
        replies(StatusCode::FOUND, async move { login.redirect(started?).await })
    }

    fn logged_in(
        &self,
        login: &OidcLogin,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
    ) -> Result<Arc<Identity>, AuthFault> {
        let identity = login.identity(&request.head, facts.secure)?;
        match self.identities.is_revoked(&identity) {
            true => Err(AuthFault::Revoked),
            false => Ok(identity),
        }
    }
}

/// Whether the response to a request is shown as a page.
fn shows_page(request: &RequestHead, facts: &FilterFacts<'_>) -> bool {
    !facts.upgrade && !facts.is_engine && is_navigation(request)
}

fn about<'f>(facts: &FilterFacts<'f>) -> LoginFacts<'f> {
    let FilterFacts { secure, host, path, query, .. } = *facts;
    LoginFacts { secure, host, path, query }
}

/// A check that ends with a reply: the provider may have to be asked first.
fn replies(
    status: StatusCode,
    reply: impl Future<Output = Result<LoginReply, LoginFault>> + Send + 'static,
) -> AuthCheck {
    AuthCheck::Waits(Box::pin(async move {
        Err(match reply.await {
            Ok(reply) => Box::new(AuthRefusal::Answered(local_reply(status, reply))),
            Err(fault) => login_failed(&fault),
        })
    }))
}

fn local_reply(status: StatusCode, reply: LoginReply) -> LocalReply {
    let LoginReply { location, cookies } = reply;
    let mut local = LocalReply::new(location.as_ref().map_or(StatusCode::OK, |_| status));
    let head = local.fields();
    head.set(FieldId::CacheControl, "no-store");
    for cookie in cookies {
        head.append(FieldId::SetCookie, cookie);
    }
    match location {
        Some(location) => head.set(FieldId::Location, location),
        None => {
            head.set(FieldId::ContentType, "text/html; charset=utf-8");
            local.body = ReplyBody::Bytes(Bytes::from_static(LOGGED_OUT.as_bytes()));
        }
    }
    local
}
