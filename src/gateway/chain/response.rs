//! What the filters of a route do with a response. It is computed when the request arrives, and held until the response
//! has been delivered.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use moorline_http::{BodyLength, FieldId, ResponseHead};

use crate::{
    auth::{ForwardGrant, Identity},
    config::Timeouts,
    gateway::{
        auth::RequestIdentity,
        body::{BodyFilter, ReplyBody},
        cache::CacheTicket,
        compress::{self, Compression},
        cors::CorsGrant,
        fields::RenderedEdits,
        limits::{LimitReport, LimitSlot},
        local::LocalReply,
        transform::{ResponseBodyChange, ResponseTransform},
    },
    sticky::EnginePlace,
    tunnel::MessageLimits,
};

/// What is done with a response.
#[derive(Debug, Default)]
pub(crate) struct ResponseFilters {
    /// Time limits of the route; `None`: those of the pool.
    pub(crate) timeouts: Option<Arc<Timeouts>>,
    pub(super) edits: Option<RenderedEdits>,
    pub(super) cors: Option<CorsGrant>,
    pub(super) compression: Option<Compression>,
    pub(super) transform: Option<Box<ResponseTransform>>,
    pub(super) limits: Vec<LimitReport>,
    /// The place that serves Engine.IO if the response opens a session.
    pub(super) place: Option<EnginePlace>,
    /// Limits on the messages of a tunnel.
    pub(super) messages: Option<MessageLimits>,
    /// Keep the request and its tunnel counted.
    pub(super) slots: Vec<LimitSlot>,
    pub(super) cache: Option<Box<CacheTicket>>,
    /// The reply, if the response of the backend is only for the cache.
    pub(super) stale: Option<Box<(ResponseHead, Bytes)>>,
    pub(super) identity: Option<Box<RequestIdentity>>,
    /// What a server that decides about requests has given.
    pub(super) grant: Option<Arc<ForwardGrant>>,
}

impl ResponseFilters {
    /// Returns the limits on the messages of a tunnel.
    pub(crate) fn messages(&self) -> Option<MessageLimits> {
        self.messages
    }

    /// Keeps what a tunnel needs: its slots in limits. `None`: nothing.
    pub(crate) fn into_tunnel(mut self: Box<Self>) -> Option<Box<Self>> {
        self.slots.retain(LimitSlot::is_tunnel);
        (self.edits, self.cors, self.limits) = (None, None, Vec::new());
        (self.compression, self.transform, self.cache) = (None, None, None);
        self.grant = None;
        (!self.slots.is_empty()).then_some(self)
    }

    /// The response opens a session of Engine.IO: it is not changed. Returns the place, if it is new.
    pub(crate) fn opens_session(&mut self) -> Option<EnginePlace> {
        let place = self.place.take()?;
        self.transform = None;
        Some(place)
    }

    /// Whether the response of the backend is only for the cache.
    pub(crate) fn is_renewal(&self) -> bool {
        self.stale.is_some()
    }

    /// Takes the stale reply, if the response of the backend is only for the cache.
    pub(crate) fn take_stale(&mut self) -> Option<LocalReply> {
        let (head, body) = *self.stale.take()?;
        Some(LocalReply { head, body: ReplyBody::Bytes(body) })
    }

    /// Takes what the cache does with the response.
    pub(crate) fn take_cache(&mut self) -> Option<Box<CacheTicket>> {
        self.cache.take()
    }

    /// Whether a response is transformed, which takes time.
    pub(crate) fn transforms(&self) -> bool {
        self.transform.is_some()
    }

    /// Begins to transform a response of a backend, whether it is stored or new: returns what is done with its body. Comes
    /// first, and counts once.
    pub(crate) fn begin(&mut self, head: &mut ResponseHead) -> Option<ResponseBodyChange> {
        self.transform.take()?.begin(head)
    }

    /// Changes the head of a response. Edits come first, so that they cannot forge a grant.
    pub(crate) fn apply(&self, head: &mut ResponseHead) {
        if let Some(edits) = &self.edits {
            edits.apply(&mut head.head);
        }
        for (name, value) in self.grant.iter().flat_map(|grant| &grant.back) {
            head.head.append_named(name.as_str(), value.as_bytes());
        }
        LimitReport::write(&self.limits, &mut head.head);
        if let Some(grant) = &self.cors {
            grant.apply(&mut head.head);
        }
        let subprotocol = self.identity.as_ref().and_then(|identity| identity.subprotocol());
        if let Some(name) = subprotocol.filter(|_| head.status == StatusCode::SWITCHING_PROTOCOLS)
            && !head.head.has(FieldId::SecWebSocketProtocol)
        {
            head.head.set(FieldId::SecWebSocketProtocol, name);
        }
    }

    /// The identity of the request, and what follows for its session.
    pub(crate) fn request_identity(&self) -> Option<&RequestIdentity> {
        self.identity.as_deref()
    }

    /// Whether a credential of the request was accepted.
    pub(super) fn is_authenticated(&self) -> bool {
        self.identity.is_some() || self.grant.is_some()
    }

    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref().map(|identity| identity.identity())
    }

    /// Returns the filter for the body of a response with this length, and changes its head accordingly; `None`: the body
    /// stays as it is.
    /// Comes after [`apply`](Self::apply).
    pub(crate) fn body(&self, head: &mut ResponseHead, length: BodyLength) -> Option<BodyFilter> {
        self.compression.as_ref()?.apply(head, length)
    }

    /// Changes a response that is made here.
    pub(crate) fn apply_local(&self, reply: &mut LocalReply) {
        self.apply(&mut reply.head);
        let ReplyBody::Bytes(body) = &mut reply.body else { return };
        let length = BodyLength::Exactly(body.len() as u64);
        let filter = self.compression.as_ref().and_then(|c| c.apply(&mut reply.head, length));
        // Encoding into memory cannot fail.
        if let Ok(encoded) = compress::whole(filter, body.clone()) {
            *body = encoded;
        }
    }
}
