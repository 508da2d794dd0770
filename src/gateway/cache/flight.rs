//! Which request renews a response, of several for the same one.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Requests on their way that renew a response, by the hash of their key.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashSet<u128>>);

/// What a request does.
#[derive(Debug)]
pub(super) enum Turn {
    /// It renews the response, until the guard is dropped.
    Leads(FlightGuard),
    /// Another one does.
    Waits,
}

/// The request that renews a response.
#[derive(Debug)]
pub(super) struct FlightGuard {
    flights: Arc<Flights>,
    hash: u128,
}

impl Flights {
    /// Joins the requests with this hash.
    pub(super) fn join(self: &Arc<Self>, hash: u128) -> Turn {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !flights.insert(hash) {
            return Turn::Waits;
        }
        Turn::Leads(FlightGuard { flights: Arc::clone(self), hash })
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(&self.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_leads_until_it_has_landed() {
        let flights = Arc::new(Flights::default());
        let Turn::Leads(leader) = flights.join(1) else { panic!() };
        assert!(matches!(flights.join(1), Turn::Waits));
        let Turn::Leads(other) = flights.join(2) else { panic!() };
        drop(leader);
        assert!(matches!(flights.join(1), Turn::Leads(_)));
        drop(other);
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
