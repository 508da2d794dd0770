//! Messages between the two processes.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    api::Predecessor,
    net::{
        inherited::Purpose,
        tls::{TicketKey, TicketKeys},
    },
    sticky::{CookieKeys, GeneratedKey, Learned, SessionEnding, recent_sessions::ClientKey},
    upstream::Backend,
};

/// Named values; this module does not know their meaning.
pub type Values = Vec<(String, Value)>;

/// From the old process to the new one.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum FromOld {
    /// The first message.
    Hello { protocol: u32, pid: u32, version: String },
    /// A listening socket, with its descriptor.
    Socket(Purpose),
    /// The keys that the new process must continue to use.
    Keys(Secrets),
    /// A live backend.
    Backend(BackendRecord),
    /// A value with its name.
    Value(String, Value),
    /// The new process has everything to prepare.
    Offered,
    /// Sessions.
    Sessions(Vec<SessionRecord>),
    /// The new process has everything to accept.
    Transferred,
    /// The old process does not accept any more, and has released the admin sockets.
    Released,
    /// A session ended in the old process; has the client and its backend.
    Ended(SessionEnding),
    /// The connections that the old process and its predecessors still have.
    State(PredecessorState),
}

/// From the new process to the old one.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum FromNew {
    /// The first message.
    Hello { protocol: u32, version: String },
    /// The new process has built everything that can fail.
    Prepared,
    /// The new process accepts connections.
    Ready,
    /// What to do with the tunnels in the old process and its predecessors. Backends without a directive stay
    /// as they are.
    #[serde(rename = "Fates")]
    Directives(Vec<BackendDirective>),
    /// The new process ends, and why.
    Failed(String),
}

/// Random keys of the old process. Keys from the configuration are not sent.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Secrets {
    /// The key of the affinity cookie.
    cookie: Option<RandomKeyRecord>,
    /// The keys of TLS tickets, the current one first.
    tickets: Vec<TicketKey>,
}

impl Secrets {
    /// Returns the random keys of this process.
    pub fn of(cookies: &CookieKeys, tickets: &TicketKeys) -> Self {
        Self { cookie: cookies.generated().map(RandomKeyRecord), tickets: tickets.export() }
    }

    /// The key of the affinity cookie, if it is random.
    pub fn cookie(&self) -> Option<GeneratedKey> {
        self.cookie.map(|made| made.0)
    }

    /// The keys of TLS tickets, the current one first; empty if they are not random.
    pub fn tickets(&self) -> &[TicketKey] {
        &self.tickets
    }
}

/// A random key.
#[derive(Clone, Copy, Deserialize, Serialize)]
struct RandomKeyRecord(GeneratedKey);

impl std::fmt::Debug for RandomKeyRecord {
    /// Does not show the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Generated")
    }
}

/// The connections that an old process and its predecessors still have.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PredecessorState {
    /// The old process and its predecessors.
    pub processes: Vec<Predecessor>,
    /// The open tunnels in all of them, by backend; `None`: a predecessor has not reported yet.
    pub tunnels: Option<Vec<HeldTunnels>>,
}

/// Open tunnels to a backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HeldTunnels {
    /// The backend.
    pub backend: BackendIdentity,
    /// Number of tunnels.
    pub tunnels: u64,
}

/// Whether the predecessors drain their tunnels to a backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BackendDirective {
    /// The backend.
    pub backend: BackendIdentity,
    /// What to do.
    #[serde(rename = "course")]
    pub directive: DrainDirective,
}

/// Whether a backend drains, according to the newest process.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub enum DrainDirective {
    /// The backend does not drain.
    #[serde(rename = "Serves")]
    Serve,
    /// The backend drains; `None`: its tunnels are not closed.
    #[serde(rename = "Drains")]
    Drain(Option<DrainUntil>),
}

/// When a drain closes tunnels.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct DrainUntil {
    /// When the remaining tunnels are cut. Sent as the remaining time.
    #[serde(with = "from_now")]
    pub deadline: Instant,
    /// Time before the deadline in which tunnels are closed.
    pub spread: Duration,
}

mod from_now {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize, Duration, Instant, Serialize};

    pub(super) fn serialize<S: Serializer>(at: &Instant, to: S) -> Result<S::Ok, S::Error> {
        at.saturating_duration_since(Instant::now()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Instant, D::Error> {
        Ok(Instant::now() + Duration::deserialize(from)?)
    }
}

/// Identifies a backend in all processes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash, Serialize)]
pub struct BackendIdentity {
    /// Name of the pool.
    pub pool: String,
    /// Name of the backend.
    pub name: String,
    /// Host of the address.
    pub host: String,
    /// Port of the address.
    pub port: u16,
}

impl BackendIdentity {
    /// Returns the identity of a live backend.
    pub fn of(backend: &Backend) -> Self {
        let address = backend.address();
        Self {
            pool: backend.pool().to_owned(),
            name: backend.name().to_owned(),
            host: address.host.clone(),
            port: address.port,
        }
    }

    /// Whether this is the identity of `backend`.
    pub fn is(&self, backend: &Backend) -> bool {
        let address = backend.address();
        self.pool == backend.pool()
            && self.name == backend.name()
            && (&self.host, self.port) == (&address.host, address.port)
    }
}

/// A live backend with its state.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BackendRecord {
    /// Serial in the old process; sessions refer to it.
    pub id: u64,
    /// The backend.
    #[serde(rename = "who")]
    pub identity: BackendIdentity,
    /// Weight.
    pub weight: u32,
    /// Whether the backend is up.
    pub up: bool,
    /// Addresses that its name was resolved to.
    pub addresses: Vec<SocketAddr>,
}

impl BackendRecord {
    /// Returns the record of a live backend.
    pub fn of(backend: &Backend) -> Self {
        Self {
            id: backend.serial(),
            identity: BackendIdentity::of(backend),
            weight: backend.weight(),
            up: backend.is_up(),
            addresses: backend.addresses().to_vec(),
        }
    }
}

/// A session: serial of its backend, sid, remaining lifetime, lifetime (both in milliseconds) and the client
/// that opened the session, if known. Earlier versions do not send the client.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "SessionRecordForm", into = "SessionRecordForm")]
pub(super) struct SessionRecord(
    pub(super) u64,
    pub(super) Box<str>,
    pub(super) u64,
    pub(super) u64,
    pub(super) Option<u64>,
);

/// A session as it is sent: an array with or without the client.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum SessionRecordForm {
    OfClient(u64, Box<str>, u64, u64, u64),
    Plain(u64, Box<str>, u64, u64),
}

impl From<SessionRecordForm> for SessionRecord {
    fn from(record: SessionRecordForm) -> Self {
        match record {
            SessionRecordForm::OfClient(backend, sid, left, lifetime, client) => {
                Self(backend, sid, left, lifetime, Some(client))
            }
            SessionRecordForm::Plain(backend, sid, left, lifetime) => {
                Self(backend, sid, left, lifetime, None)
            }
        }
    }
}

impl From<SessionRecord> for SessionRecordForm {
    fn from(SessionRecord(backend, sid, left, lifetime, client): SessionRecord) -> Self {
        match client {
            Some(client) => Self::OfClient(backend, sid, left, lifetime, client),
            None => Self::Plain(backend, sid, left, lifetime),
        }
    }
}

impl SessionRecord {
    pub(super) fn of(learned: Learned) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (left, lifetime) = (millis(learned.left), millis(learned.lifetime));
        let client = learned.client.map(ClientKey::bits);
        Self(learned.backend.serial(), learned.sid, left, lifetime, client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn keys_are_sent_and_not_shown() {
        let keys = CookieKeys::new(&config::SharedKeys::Generated);
        let made = keys.generated().unwrap();
        let secrets =
            Secrets::of(&keys, &TicketKeys::new(&config::SharedKeys::Generated, &[]).unwrap());
        let text = serde_json::to_string(&FromOld::Keys(secrets.clone())).unwrap();
        let FromOld::Keys(read) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        assert_eq!(read.cookie(), Some(made));
        assert_eq!(read.tickets().len(), 1);
        assert!(!format!("{secrets:?}").contains(&format!("{made:?}")[1..20]));
    }

    #[test]
    fn deadline_is_sent_as_remaining_time() {
        let (deadline, spread) = (Instant::now() + Duration::from_secs(60), Duration::from_secs(9));
        let directive = DrainDirective::Drain(Some(DrainUntil { deadline, spread }));
        let text = serde_json::to_string(&directive).unwrap();
        let DrainDirective::Drain(Some(read)) = serde_json::from_str(&text).unwrap() else {
            panic!("{text}")
        };
        // Later by the transfer time, never earlier.
        assert!(read.deadline >= deadline && read.spread == spread, "{text}");
        for directive in [DrainDirective::Drain(None), DrainDirective::Serve] {
            let text = serde_json::to_string(&directive).unwrap();
            assert_eq!(serde_json::from_str::<DrainDirective>(&text).unwrap(), directive);
        }
    }

    #[test]
    fn session_is_sent_as_a_short_array() {
        for (client, expected) in [
            (None, "[7,\"abcdefghij0123456789\",44000,45000]"),
            (Some(u64::MAX), "[7,\"abcdefghij0123456789\",44000,45000,18446744073709551615]"),
        ] {
            let session = SessionRecord(7, "abcdefghij0123456789".into(), 44_000, 45_000, client);
            let text = serde_json::to_string(&session).unwrap();
            assert_eq!(text, expected);
            assert_eq!(serde_json::from_str::<SessionRecord>(&text).unwrap(), session);
        }
    }
}
