//! One ACME order, from the account to proved names. Only the account is stored here.
//!
//! The account is created once and stored. The caller chooses the [`ChallengeType`]; if the server does not
//! offer it for a name, the other type is used. After the names are proved, the order continues in its own
//! task ([`ProvenOrder`]): an issued certificate counts at the server, even if this attempt is aborted.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus,
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};

use super::{
    challenge_type::ChallengeType,
    challenges::{Challenges, PostedChallenge},
    client::Client,
    error::OrderError,
    issue::{ProvenOrder, Retries, refresh},
    store::{Store, StoreError, StoredAccount},
};
use crate::config::{Acme, url_without_secrets};

/// Time limit of a whole order.
pub(super) const ORDER_TIMEOUT: Duration = Duration::from_secs(300);

/// Shortest and longest pause between two requests for the state of an order. A `Retry-After` of the
/// server has precedence.
pub(super) const PAUSES: (Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(10));

/// Time before the deadline of the last poll, whatever the `Retry-After` of the server.
pub(super) const FINAL_POLL: Duration = Duration::from_secs(20);

/// Places an order.
pub(super) struct Orderer<'a> {
    pub(super) terms: &'a Acme,
    pub(super) store: &'a Store,
    pub(super) challenges: &'a Arc<Challenges>,
    /// Challenge type to use, if the server offers it.
    pub(super) preferred: ChallengeType,
    /// Whether the other type may be used if the server does not offer the preferred one.
    pub(super) both: bool,
}

/// An issued certificate, in PEM.
pub(super) struct IssuedChain {
    pub(super) chain: String,
    pub(super) key: String,
}

impl From<StoreError> for OrderError {
    fn from(error: StoreError) -> Self {
        Self::new(error)
    }
}

impl Orderer<'_> {
    /// Makes an order and proves its names.
    ///
    /// # Errors
    /// Why the names could not be proved.
    pub(super) async fn prove(&self) -> Result<ProvenOrder, OrderError> {
        let deadline = Instant::now() + ORDER_TIMEOUT;
        let client = Client::new(self.terms.ca.as_deref()).await.map_err(OrderError::new)?;
        let prove = self.prove_names(&client, deadline);
        let (order, challenge) = before_deadline(deadline, &client, prove).await?;
        ProvenOrder::new(order, challenge, client, deadline)
    }

    async fn prove_names(
        &self,
        client: &Client,
        deadline: Instant,
    ) -> Result<(Order, ChallengeType), OrderError> {
        let account = self.account(client).await?;
        let mut order = match self.order(&account).await {
            Err(error) if error.unknown_account => {
                let text = error.text;
                self.on_disk(move |store| store.reject_account(&text)).await?;
                self.order(&self.account(client).await?).await?
            }
            order => order?,
        };
        let (_posted, used) = self.post(&mut order).await?;
        let pending = |status| status == OrderStatus::Pending;
        match poll_while(&mut order, client, deadline, pending).await {
            Ok(OrderStatus::Ready) => Ok((order, used)),
            Ok(_) => Err(challenge_error(&mut order, used, None).await),
            Err(error @ Error::Api(_)) => Err(challenge_error(&mut order, used, Some(error)).await),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs `work` on the stored files, outside the async runtime.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, OrderError> {
        let store = self.store.clone();
        spawn_blocking(move || work(&store)).await.map_err(OrderError::new)
    }

    /// Returns the stored account, or creates one.
    pub(super) async fn account(&self, client: &Client) -> Result<Account, OrderError> {
        let contact = self.terms.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let builder = Account::builder_with_http(Box::new(client.clone()));
        if let Some(stored) = self.on_disk(Store::account).await? {
            let same = stored.email == self.terms.email;
            let account = builder.from_credentials(stored.credentials).await?;
            if !same {
                self.update_contact(&account, &contact).await?;
            }
            return Ok(account);
        }
        let terms = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let directory = self.terms.directory.clone();
        let (account, credentials) = builder.create(&terms, directory, None).await?;
        let email = self.terms.email.clone();
        let created = StoredAccount { email, credentials };
        self.on_disk(move |store| store.save_account(&created)).await??;
        let directory = url_without_secrets(&self.terms.directory);
        tracing::info!(directory, "ACME account created");
        Ok(account)
    }

    /// Updates the contact address at the server and in the stored account.
    async fn update_contact(&self, account: &Account, contact: &[&str]) -> Result<(), OrderError> {
        account.update_contacts(contact).await?;
        // The credentials that were read before were moved into `account`.
        if let Some(stored) = self.on_disk(Store::account).await? {
            let updated = StoredAccount { email: self.terms.email.clone(), ..stored };
            self.on_disk(move |store| store.save_account(&updated)).await??;
        }
        Ok(())
    }

    async fn order(&self, account: &Account) -> Result<Order, OrderError> {
        let names: Vec<Identifier> =
            self.terms.domains.iter().cloned().map(Identifier::Dns).collect();
        Ok(account.new_order(&NewOrder::new(&names)).await?)
    }

    /// Posts the answers to the challenges and asks the server to check them.
    async fn post(
        &self,
        order: &mut Order,
    ) -> Result<(Vec<PostedChallenge>, ChallengeType), OrderError> {
        let (mut posted, mut used) = (Vec::new(), self.preferred);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let offers = |kind: &ChallengeType| {
                authorization.challenges.iter().any(|c| c.r#type == kind.protocol_type())
            };
            let kinds = [self.preferred, self.preferred.other()];
            let kinds = if self.both { &kinds[..] } else { &kinds[..1] };
            let kind = kinds.iter().copied().find(offers);
            let Some((kind, mut challenge)) =
                kind.and_then(|kind| Some((kind, authorization.challenge(kind.protocol_type())?)))
            else {
                let text = format!(
                    "the server does not offer the {} challenge for {name}",
                    self.preferred
                );
                return Err(OrderError { challenge_failed: true, ..OrderError::new(text) });
            };
            used = kind;
            let answer = challenge.key_authorization();
            posted.push(match kind {
                ChallengeType::Http => self.challenges.post_http(&challenge.token, answer.as_str()),
                ChallengeType::TlsAlpn => {
                    let posted = self.challenges.post_tls(&name, answer.digest().as_ref());
                    posted.map_err(|error| {
                        OrderError::new(format!("cannot make a challenge for {name}: {error}"))
                    })?
                }
            });
            challenge.set_ready().await?;
        }
        Ok((posted, used))
    }
}

/// Returns the server's reason for each failed challenge.
async fn challenge_error(
    order: &mut Order,
    used: ChallengeType,
    error: Option<Error>,
) -> OrderError {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let problems = authorization.challenges.iter().filter_map(|known| known.error.as_ref());
        reasons.extend(problems.map(|problem| format!("{name}: {problem}")));
    }
    let challenge_failed = !reasons.is_empty();
    if !challenge_failed {
        let reason = error.map(|error| error.to_string());
        reasons.push(reason.unwrap_or_else(|| "the server gave no reason".to_owned()));
    }
    let text = format!("{used} challenge failed: {}", reasons.join("; "));
    OrderError { challenge_failed, ..OrderError::new(text) }
}

/// Returns the outcome of `work`, or an error at the deadline. Errors have the server's `Retry-After`.
pub(super) async fn before_deadline<T>(
    deadline: Instant,
    client: &Client,
    work: impl Future<Output = Result<T, OrderError>>,
) -> Result<T, OrderError> {
    let outcome = timeout_at(deadline, work).await.unwrap_or_else(|_| {
        let text = format!("the order did not finish within {} s", ORDER_TIMEOUT.as_secs());
        Err(OrderError { temporary: true, ..OrderError::new(text) })
    });
    outcome.map_err(|error| OrderError { retry_after: client.retry_after(), ..error })
}

/// Reads the order until its status is not one that `waits`. Respects the server's `Retry-After`, but
/// reads the order once more before the deadline.
pub(super) async fn poll_while(
    order: &mut Order,
    client: &Client,
    deadline: Instant,
    waits: impl Fn(OrderStatus) -> bool,
) -> Result<OrderStatus, Error> {
    let (mut pause, longest) = PAUSES;
    loop {
        let state = order.state();
        if let Some(error) = &state.error {
            return Err(Error::Api(error.clone()));
        }
        if !waits(state.status) {
            return Ok(state.status);
        }
        let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(FINAL_POLL);
        let requested = client.poll_after().filter(|_| !left.is_zero());
        sleep(requested.map_or(pause, |wait| wait.min(left).max(PAUSES.0))).await;
        pause = (pause * 2).min(longest);
        refresh(order, &mut Retries::new(deadline, client)).await?;
    }
}
