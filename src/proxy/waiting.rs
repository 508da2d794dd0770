//! A request that waits for a filter before it has a destination.
//!
//! The wait has the deadline of what the filter does. A client that leaves ends it.

use tokio::select;

use super::{
    arrival::{Arrival, RequestTraits, Stopped},
    client::ClientSide,
    connection::Flow,
    handle,
    opened_request::{ArrivalFacts, OpenedRequest, RequestSender, Unpassed},
};
use crate::{
    error::{Phase, ProxyError},
    gateway::PausedRequest,
    snapshot::RouteTarget,
};

/// A request that a filter holds while it waits. Owns what the rest of the arrival needs.
pub(super) struct PausedArrival<'a> {
    pub(super) opened: OpenedRequest<'a>,
    pub(super) paused: Box<PausedRequest>,
    pub(super) traits: RequestTraits,
    pub(super) sender: RequestSender,
    pub(super) facts: ArrivalFacts,
    pub(super) rule: RouteTarget,
    pub(super) hops: usize,
    pub(super) forwarded_always: bool,
}

impl<'a> PausedArrival<'a> {
    /// Waits for the filter, runs the remaining ones, and does the rest of the arrival.
    ///
    /// # Errors
    /// The request gets a reply of the proxy, or another filter waits.
    pub(super) async fn resume(self) -> Result<Arrival<'a>, Box<Stopped<'a>>> {
        let Self { mut opened, paused, traits, sender, facts, rule, hops, forwarded_always } = self;
        let known = opened.facts((&traits, &sender), &facts);
        let passed = match &rule.filters {
            Some(filters) => filters.resume(*paused, &known).await,
            // Only filters pause a request.
            None => {
                return Err(opened.refused(&ProxyError::bad_request("No filter."), facts.unread));
            }
        };
        let passed = opened.passed(passed, facts.unread);
        match passed.and_then(|passed| opened.pool_of(passed, (&traits, &sender), &facts, &rule)) {
            Ok((passed, pool)) => {
                let (target, host) = ((&pool, &rule), (&*facts.host, facts.upgrade));
                Ok(opened.arrive(passed, traits, &sender, host, target, (hops, forwarded_always)))
            }
            Err(Unpassed::Stopped(stopped)) => Err(stopped),
            Err(Unpassed::Paused(paused)) => Err(Box::new(Stopped::Paused(Box::new(Self {
                opened,
                paused,
                traits,
                sender,
                facts,
                rule,
                hops,
                forwarded_always,
            })))),
        }
    }
}

/// Waits for the filters, then serves the request.
pub(super) async fn serve<'a>(
    mut paused: Box<PausedArrival<'a>>,
    client: &'a mut ClientSide,
    about: (bool, bool),
) -> Flow {
    let arrival = loop {
        paused.opened.scope.enter(Phase::Select);
        // Dropping the request closes its scope as that of a client that has left.
        let resumed = select! {
            resumed = paused.resume() => resumed,
            () = client.left() => return Flow::Drop,
        };
        match resumed {
            Ok(arrival) => break arrival,
            Err(stopped) => match *stopped {
                Stopped::Refused(refused) => return refused.answer(client, about).await,
                Stopped::Paused(next) => paused = next,
            },
        }
    };
    handle::start(arrival, client).await
}
