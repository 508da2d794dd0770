//! One order, from its beginning to a certificate that is stored.
//!
//! The account is made once and kept. Each name is proved by one way for the whole order
//! ([`Way`]); which one is the caller's to say, and where a proof fails it may say the other.

use std::{fmt, sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::time::timeout;

use super::{
    challenges::{Challenges, Posted},
    client::Client,
    store::{Store, StoredAccount},
};
use crate::config::{Acme, Certificate};

/// Deadline of a whole order.
const WITHIN: Duration = Duration::from_secs(300);

/// How long the server may take to look at the proofs, and again to issue.
const LOOK: Duration = Duration::from_secs(90);

/// Type of the problem where the server does not know the account (RFC 8555 §6.7).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// How names are proved to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By a handshake for a protocol of its own (RFC 8737).
    TlsAlpn,
    /// By a path in the clear (RFC 8555 §8.3).
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
    stranger: bool,
    /// In how long the server has said to come back.
    pub(super) come_back: Option<Duration>,
}

/// What an order needs.
pub(super) struct Orderer<'a> {
    pub(super) terms: &'a Acme,
    pub(super) store: &'a Store,
    pub(super) challenges: &'a Arc<Challenges>,
    pub(super) way: Way,
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

impl Failure {
    /// The same, said after what had failed before it.
    pub(super) fn after(mut self, before: &Self) -> Self {
        self.text = format!("{before}; {self}");
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, unproved: false, stranger: false, come_back: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let stranger =
            matches!(&error, Error::Api(problem) if problem.r#type.as_deref() == Some(NO_ACCOUNT));
        Self { stranger, ..Self::from(error.to_string()) }
    }
}

impl Orderer<'_> {
    /// Orders, proves, and stores what comes.
    ///
    /// # Errors
    /// Why there is no certificate.
    pub(super) async fn run(&self) -> Result<Certificate, Failure> {
        let client = Client::new(self.terms.ca.as_deref()).await?;
        let outcome = timeout(WITHIN, self.certificate(&client)).await.unwrap_or_else(|_| {
            Err(format!("the order has not come to an end in {} s", WITHIN.as_secs()).into())
        });
        outcome.map_err(|failure| Failure { come_back: client.come_back(), ..failure })
    }

    async fn certificate(&self, client: &Client) -> Result<Certificate, Failure> {
        let account = self.account(client).await?;
        let mut order = match self.order(&account).await {
            Err(failure) if failure.stranger => {
                self.store.refuse_account(&failure.text);
                self.order(&self.account(client).await?).await?
            }
            order => order?,
        };
        let posted = self.post(&mut order).await?;
        let looked = order.poll_ready(&RetryPolicy::new().timeout(LOOK)).await;
        drop(posted);
        match looked {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(self.unproved(&mut order, None).await),
            Err(error @ Error::Api(_)) => return Err(self.unproved(&mut order, Some(error)).await),
            Err(error) => return Err(error.into()),
        }
        let (request, key) = self.request().map_err(|error| error.to_string())?;
        order.finalize_csr(&request).await?;
        let chain = order.poll_certificate(&RetryPolicy::new().timeout(LOOK)).await?;
        self.store
            .keep(&chain, &key.serialize_pem())
            .map_err(|why| format!("what the server has issued is of no use: {why}").into())
    }

    /// The account that is stored, or else a new one.
    async fn account(&self, client: &Client) -> Result<Account, Failure> {
        let contact = self.terms.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let builder = Account::builder_with_http(Box::new(client.clone()));
        if let Some(stored) = self.store.account() {
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
        self.store.keep_account(&StoredAccount { email, credentials })?;
        tracing::info!(directory = self.terms.directory, "an ACME account has been made");
        Ok(account)
    }

    /// Tells the server whom it may write to, where that has changed.
    async fn rename(&self, account: &Account, contact: &[&str]) -> Result<(), Failure> {
        account.update_contacts(contact).await?;
        // Read again: what was read went into the account.
        if let Some(stored) = self.store.account() {
            let email = self.terms.email.clone();
            self.store.keep_account(&StoredAccount { email, ..stored })?;
        }
        Ok(())
    }

    async fn order(&self, account: &Account) -> Result<Order, Failure> {
        let names: Vec<Identifier> =
            self.terms.domains.iter().cloned().map(Identifier::Dns).collect();
        Ok(account.new_order(&NewOrder::new(&names)).await?)
    }

    /// Puts up what the server is to find, and asks it to look.
    async fn post(&self, order: &mut Order) -> Result<Vec<Posted>, Failure> {
        let mut posted = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let Some(mut challenge) = authorization.challenge(self.way.challenge()) else {
                let text = format!("the server does not take {} for {name}", self.way);
                return Err(Failure { unproved: true, ..text.into() });
            };
            let answer = challenge.key_authorization();
            posted.push(match self.way {
                Way::Http => self.challenges.post_http(&challenge.token, answer.as_str()),
                Way::TlsAlpn => {
                    let posted = self.challenges.post_tls(&name, answer.digest().as_ref());
                    posted.map_err(|error| format!("no challenge for {name}: {error}"))?
                }
            });
            challenge.set_ready().await?;
        }
        Ok(posted)
    }

    /// What the server has to say of each proof that failed.
    async fn unproved(&self, order: &mut Order, error: Option<Error>) -> Failure {
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
        let text = format!("by {}: {said}", self.way);
        Failure { unproved, ..text.into() }
    }

    /// A request for all names, with a new key: ECDSA P-256.
    fn request(&self) -> Result<(Vec<u8>, KeyPair), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(self.terms.domains.clone())?;
        params.distinguished_name = DistinguishedName::new();
        Ok((params.serialize_request(&key)?.der().to_vec(), key))
    }
}
