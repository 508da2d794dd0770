//! Request collapsing: of several requests for one response that is not stored, one goes to the backend.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// Requests on their way whose responses others wait for, by the hash of their key.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<u128, watch::Receiver<()>>>);

/// What a request does.
#[derive(Debug)]
pub(super) enum Turn {
    /// It goes to the backend; others wait until the guard is dropped.
    Leads(FlightGuard),
    /// It waits until the channel is closed.
    Waits(watch::Receiver<()>),
}

/// The request that others wait for. Dropping it lets them go on.
#[derive(Debug)]
pub(super) struct FlightGuard {
    flights: Arc<Flights>,
    hash: u128,
    _landed: watch::Sender<()>,
}

impl Flights {
    /// Joins the requests with this hash.
    pub(super) fn join(self: &Arc<Self>, hash: u128) -> Turn {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = flights.get(&hash) {
            return Turn::Waits(waiting.clone());
        }
        let (sender, receiver) = watch::channel(());
        flights.insert(hash, receiver);
        Turn::Leads(FlightGuard { flights: Arc::clone(self), hash, _landed: sender })
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

    #[tokio::test]
    async fn one_request_leads_until_it_has_landed() {
        let flights = Arc::new(Flights::default());
        let Turn::Leads(leader) = flights.join(1) else { panic!() };
        let Turn::Waits(mut waiting) = flights.join(1) else { panic!() };
        let Turn::Leads(other) = flights.join(2) else { panic!() };
        assert!(waiting.has_changed().is_ok());
        drop(leader);
        assert!(waiting.changed().await.is_err());
        assert!(matches!(flights.join(1), Turn::Leads(_)));
        drop(other);
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
