//! Issues the certificate of an order whose names are proved.
//!
//! The server counts the certificate from the request to issue it. The key and the URL of the order are
//! therefore stored before that request ([`PendingOrder`]). After a temporary failure, the same order is
//! retried, in this process or in the next one.

use std::time::Duration;

use instant_acme::{Account, Error, Order, OrderStatus};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::time::{Instant, sleep};

use super::{
    challenge_type::ChallengeType,
    client::{Client, is_temporary},
    error::OrderError,
    order::{FINAL_POLL, IssuedChain, ORDER_TIMEOUT, Orderer, PAUSES, before_deadline, poll_while},
    store::PendingOrder,
};

/// An order whose names are all proved.
pub(super) struct ProvenOrder {
    /// What a later process needs to continue the order.
    pub(super) pending: PendingOrder,
    order: Order,
    client: Client,
    deadline: Instant,
}

impl ProvenOrder {
    /// Makes a new key for this order.
    pub(super) fn new(
        order: Order,
        challenge: ChallengeType,
        client: Client,
        deadline: Instant,
    ) -> Result<Self, OrderError> {
        let key = KeyPair::generate().map_err(OrderError::new)?;
        let pending =
            PendingOrder { url: order.url().to_owned(), challenge, key: key.serialize_pem() };
        Ok(Self { pending, order, client, deadline })
    }

    /// Requests the certificate for these names and downloads it.
    ///
    /// # Errors
    /// There is no certificate. If the error is temporary, the order can still be used.
    pub(super) async fn issue(self, domains: Vec<String>) -> Result<IssuedChain, OrderError> {
        let Self { pending, mut order, client, deadline } = self;
        let request = signing_request(domains, &pending.key).map_err(OrderError::new)?;
        let issue = async {
            finalize(&mut order, &client, deadline, &request).await?;
            let waits = |status| matches!(status, OrderStatus::Ready | OrderStatus::Processing);
            poll_while(&mut order, &client, deadline, waits).await?;
            let mut retries = Retries::new(deadline, &client);
            let chain = loop {
                match order.certificate().await {
                    Ok(chain) => break chain,
                    Err(error) => retries.after(error).await?,
                }
            };
            chain.ok_or_else(|| OrderError::new("the server issued no certificate"))
        };
        let chain = before_deadline(deadline, &client, issue).await?;
        Ok(IssuedChain { chain, key: pending.key })
    }
}

impl Orderer<'_> {
    /// Continues a stored order; `None`: the server does not have it any more, or it failed.
    ///
    /// # Errors
    /// A temporary failure: the state of the order is not known.
    pub(super) async fn resume(
        &self,
        pending: PendingOrder,
    ) -> Result<Option<ProvenOrder>, OrderError> {
        let deadline = Instant::now() + ORDER_TIMEOUT;
        let client = Client::new(self.terms.ca.as_deref()).await.map_err(OrderError::new)?;
        let url = &pending.url;
        let look = async {
            let account: Account = self.account(&client).await?;
            let mut retries = Retries::new(deadline, &client);
            loop {
                match account.order(url.clone()).await {
                    Ok(order) => break Ok::<_, OrderError>(order),
                    Err(error) => retries.after(error).await?,
                }
            }
        };
        let mut order = match before_deadline(deadline, &client, look).await {
            Ok(order) => order,
            Err(error) if error.temporary => return Err(error),
            Err(error) => {
                tracing::warn!(
                    order = url,
                    %error,
                    "the ACME server does not have the stored order; making a new order"
                );
                return Ok(None);
            }
        };
        match order.state().status {
            OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => {
                tracing::info!(order = url, "continuing the stored ACME order");
                Ok(Some(ProvenOrder { pending, order, client, deadline }))
            }
            status => {
                tracing::warn!(
                    order = url,
                    ?status,
                    "the stored ACME order failed; making a new order"
                );
                Ok(None)
            }
        }
    }
}

/// Asks the server to issue. After a failed response, it is not known whether the server received the
/// request. The order is therefore read before the request is repeated.
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

/// Reads the state of an order, with retries.
pub(super) async fn refresh(order: &mut Order, retries: &mut Retries<'_>) -> Result<(), Error> {
    loop {
        match order.refresh().await {
            Ok(_) => return Ok(()),
            Err(error) => retries.after(error).await?,
        }
    }
}

/// Pauses between retries of a failed request.
pub(super) struct Retries<'a> {
    deadline: Instant,
    client: &'a Client,
    pause: Duration,
}

impl<'a> Retries<'a> {
    /// Allows no retry after the deadline.
    pub(super) fn new(deadline: Instant, client: &'a Client) -> Self {
        Self { deadline, client, pause: PAUSES.0 }
    }

    /// Waits until the request may be retried: the server's `Retry-After`, or else the next pause.
    ///
    /// # Errors
    /// The failure is not temporary, or the deadline is too near for a retry.
    pub(super) async fn after(&mut self, error: Error) -> Result<(), Error> {
        if !is_temporary(&error) {
            return Err(error);
        }
        let (least, longest) = PAUSES;
        let wait = self.client.retry_after().unwrap_or(self.pause).max(least);
        if Instant::now() + wait + FINAL_POLL > self.deadline {
            return Err(error);
        }
        let error = OrderError::from(error);
        tracing::warn!(%error, "a request to the ACME server failed; retrying");
        sleep(wait).await;
        self.pause = (self.pause * 2).min(longest);
        Ok(())
    }
}

/// Makes a certificate signing request for these names. `key` is in PEM.
fn signing_request(domains: Vec<String>, key: &str) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::from_pem(key)?;
    let mut params = CertificateParams::new(domains)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}
