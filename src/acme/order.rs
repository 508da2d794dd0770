//! One order, from its beginning to a certificate; nothing of it is stored here but the account.
//!
//! The account is made once and kept. Names are proved by the [`Way`] that the caller prefers, each by
//! the other one where the server offers that alone; which one comes next after a failure is the
//! caller's to say. What comes after the proofs ([`Proven`]) stands on its own, so that it can go on where
//! the rest is given up: a certificate that is issued counts at the server, whoever gets it.

use std::{fmt, sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus,
};
use serde::{Deserialize, Serialize};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};

use super::{
    challenges::{Challenges, Posted},
    client::{Client, passes},
    issue::{Proven, Retries, refresh},
    store::{Store, StoredAccount},
};
use crate::config::{Acme, url_without_secrets};

/// Deadline of a whole order.
pub(super) const WITHIN: Duration = Duration::from_secs(300);

/// First pause between two questions about what has become of an order, and the longest; a server that
/// names another one is believed.
pub(super) const PAUSES: (Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(10));

/// What is left of the deadline when a server is asked for the last time, whatever it has said.
pub(super) const LAST_LOOK: Duration = Duration::from_secs(20);

/// Type of the problem where the server does not know the account (RFC 8555 §6.7).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// How names are proved to be ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum Way {
    /// By a handshake for a protocol of its own (RFC 8737).
    #[default]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn,
    /// By a path in the clear (RFC 8555 §8.3).
    #[serde(rename = "http-01")]
    Http,
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct Failure {
    /// In words; the server's own where it gave some.
    pub(super) text: String,
    /// Whether it is the proof of a name that failed: the other way may do.
    pub(super) unproved: bool,
    /// Whether the server does not know the account.
    pub(super) stranger: bool,
    /// In how long the server has said to come back.
    pub(super) come_back: Option<Duration>,
    /// Whether the same question may be answered later.
    pub(super) passes: bool,
}

/// What an order needs.
pub(super) struct Orderer<'a> {
    pub(super) terms: &'a Acme,
    pub(super) store: &'a Store,
    pub(super) challenges: &'a Arc<Challenges>,
    /// How names are proved, where the server offers that.
    pub(super) way: Way,
    /// Whether they may be proved the other way where it does not.
    pub(super) both: bool,
}

/// What a server has issued, in PEM.
pub(super) struct Fresh {
    pub(super) chain: String,
    pub(super) key: String,
}

impl Way {
    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::TlsAlpn => Self::Http,
            Self::Http => Self::TlsAlpn,
        }
    }

    fn challenge(self) -> ChallengeType {
        match self {
            Self::TlsAlpn => ChallengeType::TlsAlpn01,
            Self::Http => ChallengeType::Http01,
        }
    }
}

impl fmt::Display for Way {
    /// Its name in ACME.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TlsAlpn => "tls-alpn-01",
            Self::Http => "http-01",
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, unproved: false, stranger: false, come_back: None, passes: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let stranger =
            matches!(&error, Error::Api(problem) if problem.r#type.as_deref() == Some(NO_ACCOUNT));
        let status = match &error {
            Error::Api(problem) => problem.status.map(|status| format!("HTTP {status}: ")),
            _ => None,
        };
        let text = format!("{}{error}", status.unwrap_or_default());
        Self { stranger, passes: passes(&error), ..Self::from(text) }
    }
}

impl Orderer<'_> {
    /// Orders, and proves that the names are ours.
    ///
    /// # Errors
    /// Why it is not to be had.
    pub(super) async fn prove(&self) -> Result<Proven, Failure> {
        let deadline = Instant::now() + WITHIN;
        let client = Client::new(self.terms.ca.as_deref()).await?;
        let proven = in_time(deadline, &client, self.proven(&client, deadline)).await;
        let (order, by) = proven?;
        Proven::new(order, by, client, deadline)
    }

    async fn proven(&self, client: &Client, deadline: Instant) -> Result<(Order, Way), Failure> {
        let account = self.account(client).await?;
        let mut order = match self.order(&account).await {
            Err(failure) if failure.stranger => {
                let text = failure.text;
                self.stored(move |store| store.refuse_account(&text)).await?;
                self.order(&self.account(client).await?).await?
            }
            order => order?,
        };
        let (_posted, by) = self.post(&mut order).await?;
        match settled(&mut order, client, deadline, |status| status == OrderStatus::Pending).await {
            Ok(OrderStatus::Ready) => Ok((order, by)),
            Ok(_) => Err(unproved(&mut order, by, None).await),
            Err(error @ Error::Api(_)) => Err(unproved(&mut order, by, Some(error)).await),
            Err(error) => Err(error.into()),
        }
    }

    /// Does something with the stored files, off the runtime.
    async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.store.clone();
        let done = spawn_blocking(move || work(&store)).await;
        done.map_err(|error| error.to_string().into())
    }

    /// The account that is stored, or else a new one.
    pub(super) async fn account(&self, client: &Client) -> Result<Account, Failure> {
        let contact = self.terms.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let builder = Account::builder_with_http(Box::new(client.clone()));
        if let Some(stored) = self.stored(Store::account).await? {
            let same = stored.email == self.terms.email;
            let account = builder.from_credentials(stored.credentials).await?;
            if !same {
                self.rename(&account, &contact).await?;
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
        let made = StoredAccount { email, credentials };
        self.stored(move |store| store.keep_account(&made)).await??;
        let directory = url_without_secrets(&self.terms.directory);
        tracing::info!(directory, "an ACME account has been made");
        Ok(account)
    }

    /// Tells the server whom it may write to, where that has changed.
    async fn rename(&self, account: &Account, contact: &[&str]) -> Result<(), Failure> {
        account.update_contacts(contact).await?;
        // Read again: what was read went into the account.
        if let Some(stored) = self.stored(Store::account).await? {
            let renamed = StoredAccount { email: self.terms.email.clone(), ..stored };
            self.stored(move |store| store.keep_account(&renamed)).await??;
        }
        Ok(())
    }

    async fn order(&self, account: &Account) -> Result<Order, Failure> {
        let names: Vec<Identifier> =
            self.terms.domains.iter().cloned().map(Identifier::Dns).collect();
        Ok(account.new_order(&NewOrder::new(&names)).await?)
    }

    /// Puts up what the server is to find, and asks it to look.
    async fn post(&self, order: &mut Order) -> Result<(Vec<Posted>, Way), Failure> {
        let (mut posted, mut by) = (Vec::new(), self.way);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let offers =
                |way: &Way| authorization.challenges.iter().any(|c| c.r#type == way.challenge());
            let ways = [self.way, self.way.other()];
            let ways = if self.both { &ways[..] } else { &ways[..1] };
            let way = ways.iter().copied().find(offers);
            let Some((way, mut challenge)) =
                way.and_then(|way| Some((way, authorization.challenge(way.challenge())?)))
            else {
                let text = format!("the server does not take {} for {name}", self.way);
                return Err(Failure { unproved: true, ..text.into() });
            };
            by = way;
            let answer = challenge.key_authorization();
            posted.push(match way {
                Way::Http => self.challenges.post_http(&challenge.token, answer.as_str()),
                Way::TlsAlpn => {
                    let posted = self.challenges.post_tls(&name, answer.digest().as_ref());
                    posted.map_err(|error| format!("no challenge for {name}: {error}"))?
                }
            });
            challenge.set_ready().await?;
        }
        Ok((posted, by))
    }
}

/// What the server has to say of each proof that failed.
async fn unproved(order: &mut Order, by: Way, error: Option<Error>) -> Failure {
    let mut said = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let problems = authorization.challenges.iter().filter_map(|known| known.error.as_ref());
        said.extend(problems.map(|problem| format!("{name}: {problem}")));
    }
    let unproved = !said.is_empty();
    if !unproved {
        said.extend(error.map(|error| error.to_string()));
    }
    let said = said.join("; ");
    let text = format!("by {by}: {said}");
    Failure { unproved, ..text.into() }
}

/// The outcome, or that it is late; a failure with what the server has said of when to come back.
pub(super) async fn in_time<T>(
    deadline: Instant,
    client: &Client,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let outcome = timeout_at(deadline, work).await.unwrap_or_else(|_| {
        let text = format!("the order has not come to an end in {} s", WITHIN.as_secs());
        Err(Failure { passes: true, ..text.into() })
    });
    outcome.map_err(|failure| Failure { come_back: client.come_back(), ..failure })
}

/// Asks until the order is no more in a state that `waits`. A server that says when to ask again is
/// believed, but asked once more before the deadline.
pub(super) async fn settled(
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
        let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(LAST_LOOK);
        let said = client.ask_again().filter(|_| !left.is_zero());
        sleep(said.map_or(pause, |said| said.min(left).max(PAUSES.0))).await;
        pause = (pause * 2).min(longest);
        refresh(order, &mut Retries::new(deadline, client)).await?;
    }
}
