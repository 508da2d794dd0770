//! Request collapsing: of several requests for one response that is not stored, one goes to the backend, or lets the disk
//! be read.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// Requests on their way whose responses others wait for, by the hash of their key.
#[derive(Debug, Default)]
pub(super) struct Flights<T = ()>(Mutex<HashMap<u128, watch::Receiver<T>>>);

/// What a request does.
#[derive(Debug)]
pub(super) enum Turn<T = ()> {
    /// It goes to the backend; others wait until the guard is dropped.
    Leads(FlightGuard<T>),
    /// It waits until the channel has a value or is closed.
    Waits(watch::Receiver<T>),
}

/// The request that others wait for. Dropping it lets them go on.
#[derive(Debug)]
pub(super) struct FlightGuard<T = ()> {
    flights: Arc<Flights<T>>,
    hash: u128,
    landed: watch::Sender<T>,
}

impl<T: Default> Flights<T> {
    /// Joins the requests with this hash.
    pub(super) fn join(self: &Arc<Self>, hash: u128) -> Turn<T> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = flights.get(&hash) {
            return Turn::Waits(waiting.clone());
        }
        let (sender, receiver) = watch::channel(T::default());
        flights.insert(hash, receiver);
        Turn::Leads(FlightGuard { flights: Arc::clone(self), hash, landed: sender })
    }
}

impl<T> FlightGuard<T> {
    /// Receives what others wait for.
    pub(super) fn receiver(&self) -> watch::Receiver<T> {
        self.landed.subscribe()
    }

    /// Gives others what they wait for.
    pub(super) fn land(self, value: T) {
        self.landed.send_replace(value);
    }
}

impl<T> Drop for FlightGuard<T> {
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
        let flights = Arc::new(Flights::<()>::default());
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
