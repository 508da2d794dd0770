//! Responses without a backend: redirects and fixed responses of a route.

use bytes::Bytes;
use http::StatusCode;
use moorline_http::{FieldId, Head, RequestHead, ResponseHead};

use super::{
    body::ReplyBody,
    files::{FileRequest, StaticFiles},
    variables::{FilterFacts, render},
};
use crate::{
    config::{RedirectConfig, RespondConfig},
    error::{FailureKind, Phase, ProxyError, Side},
};

/// A response that is made here.
#[derive(Debug)]
pub(crate) struct LocalReply {
    pub(crate) head: ResponseHead,
    pub(crate) body: ReplyBody,
}

impl LocalReply {
    /// Creates a response without fields and body.
    pub(super) fn new(status: StatusCode) -> Self {
        Self { head: ResponseHead::new(status), body: ReplyBody::Bytes(Bytes::new()) }
    }

    /// Whether the body is better delivered piece by piece.
    pub(crate) fn is_large(&self) -> bool {
        const LARGE: usize = 64 << 10;
        match &self.body {
            ReplyBody::Bytes(body) => body.len() > LARGE,
            ReplyBody::Stream(_) => true,
        }
    }

    pub(super) fn fields(&mut self) -> &mut Head {
        &mut self.head.head
    }
}

/// What a route answers instead of a pool.
#[derive(Debug)]
pub(crate) enum LocalAnswer {
    /// A redirect.
    Redirect(RedirectConfig),
    /// A fixed response.
    Respond(RespondConfig),
    /// A file.
    Files(StaticFiles),
}

/// The answer to one request.
#[derive(Debug)]
pub(crate) enum LocalOutcome {
    /// The response.
    Reply(LocalReply),
    /// A file, which takes time to be found.
    File(FileRequest),
}

impl LocalAnswer {
    /// Answers a request, whose path may have been rewritten.
    ///
    /// # Errors
    /// Clients of Engine.IO and WebSockets follow no redirect: they get the error of a missing route, which says so in the
    /// log.
    pub(crate) fn reply(
        &self,
        request: &RequestHead,
        facts: &FilterFacts<'_>,
    ) -> Result<LocalOutcome, ProxyError> {
        let reply = match self {
            Self::Files(files) => match files.request(request, facts)? {
                Ok(file) => return Ok(LocalOutcome::File(file)),
                Err(reply) => reply,
            },
            Self::Redirect(_) if facts.upgrade || facts.is_engine => {
                let error = ProxyError::new(Side::Client, Phase::Select, FailureKind::NoRoute);
                return Err(error.with_source(
                    "the route redirects, which clients of Engine.IO and WebSockets do not follow",
                ));
            }
            Self::Redirect(redirect) => {
                let mut reply = LocalReply::new(status(redirect.status));
                reply.fields().set(FieldId::Location, render(&redirect.to, facts));
                reply
            }
            Self::Respond(respond) => {
                let mut reply = LocalReply::new(status(respond.status));
                let body = Bytes::from(render(&respond.body, facts));
                if !body.is_empty() {
                    reply.fields().set(FieldId::ContentType, &*respond.content_type);
                }
                reply.body = ReplyBody::Bytes(body);
                reply
            }
        };
        Ok(LocalOutcome::Reply(reply))
    }
}

fn status(code: u16) -> StatusCode {
    // The configuration allows valid codes only.
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Template, gateway::variables::tests::facts, proxy::testing::request};

    fn answered(answer: &LocalAnswer, facts: &FilterFacts<'_>) -> Result<LocalReply, ProxyError> {
        match answer.reply(&request("GET / HTTP/1.1\r\n"), facts)? {
            LocalOutcome::Reply(reply) => Ok(reply),
            LocalOutcome::File(file) => panic!("{file:?}"),
        }
    }

    #[test]
    fn a_redirect_has_its_location_and_no_socket_gets_one() {
        let to = Template::parse("https://www.example.com{path}{query}").unwrap();
        let answer = LocalAnswer::Redirect(RedirectConfig { to, status: 302 });
        let reply = answered(&answer, &facts()).unwrap();
        assert_eq!(reply.head.status, StatusCode::FOUND);
        let location = reply.head.head.get(FieldId::Location);
        assert_eq!(location, Some(&b"https://www.example.com/app/x?y=1"[..]));
        for facts in
            [FilterFacts { upgrade: true, ..facts() }, FilterFacts { is_engine: true, ..facts() }]
        {
            assert_eq!(answered(&answer, &facts).unwrap_err().kind, FailureKind::NoRoute);
        }
    }

    #[test]
    fn a_fixed_response_has_its_body_and_type() {
        let respond = |body: &str, content_type: &str| {
            let body = Template::parse(body).unwrap();
            let content_type = content_type.to_owned();
            let answer = LocalAnswer::Respond(RespondConfig { status: 200, body, content_type });
            answered(&answer, &facts()).unwrap()
        };
        let plain = respond("hello {client_ip}", "text/plain");
        let ReplyBody::Bytes(body) = &plain.body else { panic!("{plain:?}") };
        assert_eq!(body, "hello 192.0.2.7");
        let content_type =
            |reply: &LocalReply| reply.head.head.text(FieldId::ContentType).map(str::to_owned);
        assert_eq!(content_type(&plain).unwrap(), "text/plain");
        assert_eq!(content_type(&respond("{{}}", "application/json")).unwrap(), "application/json");
        assert_eq!(content_type(&respond("", "application/json")), None);
    }
}
