//! What the two processes say to each other.

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

/// Values by name, of parts of the process that this module does not know.
pub type Values = Vec<(String, Value)>;

/// From the old process to the new one.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum FromOld {
    /// First of all.
    Hello { protocol: u32, pid: u32, version: String },
    /// A listening socket, with its descriptor.
    Socket(Purpose),
    /// What must stay the same under clients.
    Keys(Secrets),
    /// A live backend.
    Backend(BackendRecord),
    /// Something else, by name.
    Value(String, Value),
    /// That is all that is needed to prepare.
    Offered,
    /// Sessions.
    Sessions(Vec<SessionRecord>),
    /// That is all that is needed to accept.
    Transferred,
    /// The old process accepts nothing any more and has left the admin's sockets.
    Released,
    /// A session ended in the old process: where its client was.
    Ended(SessionEnding),
    /// What it still holds, and what those before it do.
    State(PredecessorState),
}

/// From the new process to the old one.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum FromNew {
    /// First of all.
    Hello { protocol: u32, version: String },
    /// Everything that can fail has been done.
    Prepared,
    /// It accepts.
    Ready,
    /// What is to become of the backends' tunnels in the old process and in those before it. Backends
    /// that are not named here go on as before.
    #[serde(rename = "Fates")]
    Directives(Vec<BackendDirective>),
    /// It gives up, and why.
    Failed(String),
}

/// Keys.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Secrets {
    /// The cookie key, where it was made.
    cookie: Option<MadeKeyRecord>,
    /// Of TLS tickets, the current one first, where they were made.
    tickets: Vec<TicketKey>,
}

impl Secrets {
    /// A process's own.
    pub fn of(cookies: &CookieKeys, tickets: &TicketKeys) -> Self {
        Self { cookie: cookies.generated().map(MadeKeyRecord), tickets: tickets.export() }
    }

    /// The cookie key, where one was made.
    pub fn cookie(&self) -> Option<GeneratedKey> {
        self.cookie.map(|made| made.0)
    }

    /// The keys of TLS tickets, the current one first.
    pub fn tickets(&self) -> &[TicketKey] {
        &self.tickets
    }
}

/// A key that was made.
#[derive(Clone, Copy, Deserialize, Serialize)]
struct MadeKeyRecord(GeneratedKey);

impl std::fmt::Debug for MadeKeyRecord {
    /// Says that it is there, never what it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Made")
    }
}

/// What an old process still holds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PredecessorState {
    /// It, and those before it.
    pub processes: Vec<Predecessor>,
    /// What all of them hold of each backend, where that is anything; `None`: one of those before has
    /// not said yet.
    pub tunnels: Option<Vec<HeldTunnels>>,
}

/// Open tunnels of a backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HeldTunnels {
    /// Which one.
    pub backend: BackendIdentity,
    /// How many.
    pub tunnels: u64,
}

/// What is to become of a backend's tunnels.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BackendDirective {
    /// Which one.
    pub backend: BackendIdentity,
    /// What.
    #[serde(rename = "course")]
    pub directive: DrainDirective,
}

/// What a backend does, by the newest process's word.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub enum DrainDirective {
    /// It is wanted.
    #[serde(rename = "Serves")]
    Serve,
    /// It takes nothing new; without an end, nothing of it is closed.
    #[serde(rename = "Drains")]
    Drain(Option<DrainUntil>),
}

/// Terms of a drain that has begun.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct DrainUntil {
    /// When what is left is cut. Crosses as the time that is left.
    #[serde(with = "from_now")]
    pub deadline: Instant,
    /// Over how long before that tunnels are closed.
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

/// A backend as every process knows it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash, Serialize)]
pub struct BackendIdentity {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl BackendIdentity {
    /// Of a live backend.
    pub fn of(backend: &Backend) -> Self {
        let address = backend.address();
        Self {
            pool: backend.pool().to_owned(),
            name: backend.name().to_owned(),
            host: address.host.clone(),
            port: address.port,
        }
    }

    /// Whether this is that backend.
    pub fn is(&self, backend: &Backend) -> bool {
        let address = backend.address();
        self.pool == backend.pool()
            && self.name == backend.name()
            && (&self.host, self.port) == (&address.host, address.port)
    }
}

/// A live backend: who it is, and what is known of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BackendRecord {
    /// Its number in the old process; sessions refer to it.
    pub id: u64,
    /// Who it is.
    pub who: BackendIdentity,
    /// Its weight.
    pub weight: u32,
    /// Whether it is healthy.
    pub up: bool,
    /// What its name was resolved to.
    pub addresses: Vec<SocketAddr>,
}

impl BackendRecord {
    /// Of a live backend.
    pub fn of(backend: &Backend) -> Self {
        Self {
            id: backend.serial(),
            who: BackendIdentity::of(backend),
            weight: backend.weight(),
            up: backend.is_up(),
            addresses: backend.addresses().to_vec(),
        }
    }
}

/// A session: its backend's number, its sid, what is left of its lifetime and that, in milliseconds; and
/// the client that opened it, if that is known. Earlier versions send none.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "SessionRecordForm", into = "SessionRecordForm")]
pub(super) struct SessionRecord(
    pub(super) u64,
    pub(super) Box<str>,
    pub(super) u64,
    pub(super) u64,
    pub(super) Option<u64>,
);

/// A session as it crosses.
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
    fn keys_cross_and_are_in_no_text() {
        let keys = CookieKeys::new(&config::SharedKeys::Made);
        let made = keys.generated().unwrap();
        let secrets = Secrets::of(&keys, &TicketKeys::new(&config::SharedKeys::Made, &[]).unwrap());
        let text = serde_json::to_string(&FromOld::Keys(secrets.clone())).unwrap();
        let FromOld::Keys(read) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        assert_eq!(read.cookie(), Some(made));
        assert_eq!(read.tickets().len(), 1);
        assert!(!format!("{secrets:?}").contains(&format!("{made:?}")[1..20]));
    }

    #[test]
    fn a_deadline_crosses_as_what_is_left_of_it() {
        let (deadline, spread) = (Instant::now() + Duration::from_secs(60), Duration::from_secs(9));
        let directive = DrainDirective::Drain(Some(DrainUntil { deadline, spread }));
        let text = serde_json::to_string(&directive).unwrap();
        let DrainDirective::Drain(Some(read)) = serde_json::from_str(&text).unwrap() else {
            panic!("{text}")
        };
        // Later by what it took to cross, never earlier.
        assert!(read.deadline >= deadline && read.spread == spread, "{text}");
        for directive in [DrainDirective::Drain(None), DrainDirective::Serve] {
            let text = serde_json::to_string(&directive).unwrap();
            assert_eq!(serde_json::from_str::<DrainDirective>(&text).unwrap(), directive);
        }
    }

    #[test]
    fn a_session_is_short() {
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
