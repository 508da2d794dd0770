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
    gateway::{FilteredRequest, PausedRequest},
    snapshot::RouteTarget,
};

/// A request of a route with filters. Owns what the rest of the arrival needs.
pub(super) struct FilteredArrival<'a> {
    pub(super) opened: OpenedRequest<'a>,
    pub(super) traits: RequestTraits,
    pub(super) sender: RequestSender,
    pub(super) facts: ArrivalFacts,
    pub(super) hops: usize,
    pub(super) forwarded_always: bool,
}

/// A request that a filter holds while it waits.
pub(super) struct PausedArrival<'a> {
    arrival: FilteredArrival<'a>,
    paused: Box<PausedRequest>,
    rule: RouteTarget,
}

impl<'a> FilteredArrival<'a> {
    /// Does the rest of the arrival, with what the filters have decided.
    ///
    /// # Errors
    /// The request gets a reply of the proxy, or a filter waits.
    pub(super) fn conclude(
        self,
        passed: Result<FilteredRequest, Unpassed<'a>>,
        rule: &RouteTarget,
    ) -> Result<Arrival<'a>, Box<Stopped<'a>>> {
        let Self { mut opened, traits, sender, facts, hops, forwarded_always } = self;
        match passed.and_then(|passed| opened.pool_of(passed, (&traits, &sender), &facts, rule)) {
            Ok((passed, pool)) => {
                let (target, host) = ((&pool, rule), (&*facts.host, facts.upgrade));
                Ok(opened.arrive(passed, traits, &sender, host, target, (hops, forwarded_always)))
            }
            Err(Unpassed::Stopped(stopped)) => Err(stopped),
            Err(Unpassed::Paused(paused)) => {
                let arrival = Self { opened, traits, sender, facts, hops, forwarded_always };
                let paused = PausedArrival { arrival, paused, rule: rule.clone() };
                Err(Box::new(Stopped::Paused(Box::new(paused))))
            }
        }
    }
}

impl<'a> PausedArrival<'a> {
    /// Waits for the filter, runs the remaining ones, and does the rest of the arrival.
    ///
    /// # Errors
    /// The request gets a reply of the proxy, or another filter waits.
    async fn resume(self) -> Result<Arrival<'a>, Box<Stopped<'a>>> {
        let Self { mut arrival, paused, rule } = self;
        let FilteredArrival { opened, traits, sender, facts, .. } = &mut arrival;
        let passed = match &rule.filters {
            Some(filters) => filters.resume(*paused, &opened.facts((traits, sender), facts)).await,
            // Only filters pause a request.
            None => {
                return Err(opened.refused(&ProxyError::bad_request("No filter."), facts.unread));
            }
        };
        let passed = opened.passed(passed, facts.unread);
        arrival.conclude(passed, &rule)
    }
}

/// Waits for the filters, then serves the request.
pub(super) async fn serve<'a>(
    mut paused: Box<PausedArrival<'a>>,
    client: &'a mut ClientSide,
    about: (bool, bool),
) -> Flow {
    let arrival = loop {
        paused.arrival.opened.scope.enter(Phase::Select);
        // Dropping the request closes its scope as that of a client that has left.
        let resumed = select! {
            resumed = paused.resume() => resumed,
            () = client.departed() => return Flow::Drop,
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
