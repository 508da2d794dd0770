//! From an order whose names are proved to its certificate.
//!
//! The server counts the certificate from the moment that it is asked to issue it. So the key and the
//! order's URL are stored before ([`PendingOrder`]), and whatever fails after that for a reason that may pass
//! is tried again, in this process or in the next one, for the same order.

use std::{fmt, time::Duration};

use instant_acme::{Account, Error, Order, OrderStatus};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    client::{Client, passes},
    order::{Failure, Fresh, LAST_LOOK, Orderer, PAUSES, WITHIN, Way, in_time, settled},
};

/// An order that may have its certificate already, as it is stored.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct PendingOrder {
    /// The order's URL.
    pub(super) url: String,
    /// How its names were proved.
    pub(super) by: Way,
    /// The certificate's key, in PEM.
    pub(super) key: String,
}

/// An order whose names are all proved.
pub(super) struct Proven {
    /// What is needed to go on with it.
    pub(super) pending: PendingOrder,
    order: Order,
    client: Client,
    deadline: Instant,
}

impl fmt::Debug for PendingOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Proven {
    /// A new order, with a new key.
    pub(super) fn new(
        order: Order,
        by: Way,
        client: Client,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let pending = PendingOrder { url: order.url().to_owned(), by, key: key.serialize_pem() };
        Ok(Self { pending, order, client, deadline })
    }

    /// Has the certificate for these names issued, and downloads it.
    ///
    /// # Errors
    /// Why there is none; whether the order is still good is in the failure.
    pub(super) async fn issue(self, domains: Vec<String>) -> Result<Fresh, Failure> {
        let Self { pending, mut order, client, deadline } = self;
        let request = request(domains, &pending.key).map_err(|error| error.to_string())?;
        let issue = async {
            finalize(&mut order, &client, deadline, &request).await?;
            let waits = |status| matches!(status, OrderStatus::Ready | OrderStatus::Processing);
            settled(&mut order, &client, deadline, waits).await?;
            let mut retries = Retries::new(deadline, &client);
            let chain = loop {
                match order.certificate().await {
                    Ok(chain) => break chain,
                    Err(error) => retries.after(error).await?,
                }
            };
            chain.ok_or_else(|| "the server has issued nothing".to_owned().into())
        };
        let chain = in_time(deadline, &client, issue).await?;
        Ok(Fresh { chain, key: pending.key })
    }
}

impl Orderer<'_> {
    /// Goes on with an order of before; `None`: the server has it no more, or it has failed.
    ///
    /// # Errors
    /// The server does not say, for a reason that may pass.
    pub(super) async fn resume(&self, pending: PendingOrder) -> Result<Option<Proven>, Failure> {
        let deadline = Instant::now() + WITHIN;
        let client = Client::new(self.terms.ca.as_deref()).await?;
        let url = &pending.url;
        let look = async {
            let account: Account = self.account(&client).await?;
            let mut retries = Retries::new(deadline, &client);
            loop {
                match account.order(url.clone()).await {
                    Ok(order) => break Ok::<_, Failure>(order),
                    Err(error) => retries.after(error).await?,
                }
            }
        };
        let mut order = match in_time(deadline, &client, look).await {
            Ok(order) => order,
            Err(failure) if failure.passes => return Err(failure),
            Err(failure) => {
                tracing::warn!(order = url, why = %failure, "the order is gone; making a new one");
                return Ok(None);
            }
        };
        match order.state().status {
            OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => {
                tracing::info!(order = url, "going on with the order that was begun before");
                Ok(Some(Proven { pending, order, client, deadline }))
            }
            status => {
                tracing::warn!(order = url, ?status, "the order has failed; making a new one");
                Ok(None)
            }
        }
    }
}

/// Asks the server to issue. A failed answer does not say whether the server has understood the request,
/// so the order is looked up before it is asked again.
async fn finalize(
    order: &mut Order,
    client: &Client,
    deadline: Instant,
    request: &[u8],
) -> Result<(), Error> {
    let mut retries = Retries::new(deadline, client);
    while order.state().status == OrderStatus::Ready {
        match order.finalize_csr(request).await {
            Ok(()) => break,
            Err(error) => retries.after(error).await?,
        }
        refresh(order, &mut retries).await?;
    }
    Ok(())
}

/// Looks an order up, again where the server fails.
pub(super) async fn refresh(order: &mut Order, retries: &mut Retries<'_>) -> Result<(), Error> {
    loop {
        match order.refresh().await {
            Ok(_) => return Ok(()),
            Err(error) => retries.after(error).await?,
        }
    }
}

/// When a question that has failed is asked again.
pub(super) struct Retries<'a> {
    deadline: Instant,
    client: &'a Client,
    pause: Duration,
}

impl<'a> Retries<'a> {
    /// None after the deadline.
    pub(super) fn new(deadline: Instant, client: &'a Client) -> Self {
        Self { deadline, client, pause: PAUSES.0 }
    }

    /// Resolves when the question is to be asked again. A server that says when to come back is believed.
    ///
    /// # Errors
    /// The failure is not one that passes, or does not before the deadline.
    pub(super) async fn after(&mut self, error: Error) -> Result<(), Error> {
        if !passes(&error) {
            return Err(error);
        }
        let (least, longest) = PAUSES;
        let wait = self.client.come_back().unwrap_or(self.pause).max(least);
        if Instant::now() + wait + LAST_LOOK > self.deadline {
            return Err(error);
        }
        let why = Failure::from(error);
        tracing::warn!(%why, "the ACME server failed to answer; asking again");
        sleep(wait).await;
        self.pause = (self.pause * 2).min(longest);
        Ok(())
    }
}

/// A request for all names, with this key in PEM.
fn request(domains: Vec<String>, key: &str) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::from_pem(key)?;
    let mut params = CertificateParams::new(domains)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}
