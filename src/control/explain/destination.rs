//! Which backend of a pool a request goes to, step by step.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use moorline_http::{FieldId, RequestHead};

use super::answers;
use crate::{
    api::Explanation,
    config::Balance,
    observe::ChosenBy,
    proxy::{
        affinity::{self, Destination, Remembered, RequestFacts, SessionLookup},
        cookie::AffinityCookie,
        engine_request::{EngineRequest, engine_request},
        validate::ValidatedRequest,
    },
    shared::SharedState,
    snapshot::PoolSnapshot,
    sticky::{self, AffinityHints, Choice, recent_sessions::ClientKey},
    upstream::{Backend, Lifecycle, source},
};

/// Maximum number of backends that a step names.
const MOST_NAMED: usize = 5;

/// Reads session state as the data path does, and changes nothing.
struct PreviewLookup<'a> {
    shared: &'a SharedState,
    pool: &'a PoolSnapshot,
    client: Option<ClientKey>,
    /// Result of the lookup among recent sessions, if there was one.
    recalled: Option<Remembered<'a>>,
}

impl SessionLookup for PreviewLookup<'_> {
    fn session(&mut self, hints: AffinityHints<'_>) -> Choice {
        sticky::preview(&self.shared.sids, self.pool.upstream.name(), hints, Instant::now())
    }

    fn recent(&mut self) -> Option<Arc<Backend>> {
        let recalled = affinity::recall(&self.shared.memory, self.client, self.pool);
        self.recalled = Some(recalled);
        match recalled {
            Remembered::On(backend) => Some(Arc::clone(backend)),
            _ => None,
        }
    }

    fn returns_to(&mut self, _: &Backend) {}
}

/// Explains where a request of this pool goes.
pub(super) fn place(
    shared: &SharedState,
    pool: &PoolSnapshot,
    request: &RequestHead,
    checked: &ValidatedRequest<'_>,
    (client, tls): (IpAddr, bool),
    explanation: &mut Explanation,
) {
    let engine = engine_request(request.query());
    describe_engine(engine.as_ref(), pool, explanation);
    let cookie = AffinityCookie::of(&request.head, pool, tls, checked.host);
    if request.head.has(FieldId::Cookie) {
        explanation.steps.push(match cookie.target() {
            Some(backend) => format!("The cookie names {}.", backend.name()),
            None => "No cookie names a backend of this pool.".to_owned(),
        });
    }
    let (engine, method) = (engine.as_ref(), &request.method);
    let session = (engine, method, checked.upgrade);
    let key = affinity::client_key(&shared.memory, pool, client, session, &request.head);
    let facts =
        RequestFacts { engine, method, upgrade: checked.upgrade, affinity: cookie.target() };
    let mut lookup = PreviewLookup { shared, pool, client: key, recalled: None };
    let destination = affinity::decide(facts, pool, &mut lookup);
    describe_recent(lookup.recalled, explanation);
    let sid = engine.and_then(|engine| engine.sid.as_deref());
    let sid = sid.filter(|_| pool.config().sticky.engine_io);
    match destination {
        Destination::Session(backend, _) => {
            chosen(explanation, ChosenBy::Sid, Some(&backend));
            let (name, condition) = (backend.name(), condition(&backend));
            let sentence = format!("The session is known here: it is on {name}, {condition}.");
            explanation.steps.push(sentence);
        }
        Destination::Gone { evicted } => gone(evicted, explanation),
        Destination::Search(first, _) => searched(pool, first.as_ref(), sid, explanation),
        Destination::Preferred(backend, by) => {
            chosen(explanation, by, Some(&backend));
            let name = backend.name();
            explanation.steps.push(match by {
                ChosenBy::Memory => format!(
                    "There is no session and no cookie, but this client's last session ended on {name} a \
                     moment ago."
                ),
                _ => format!("No session is known: the cookie selects {name}."),
            });
        }
        Destination::Balanced => {
            if sid.is_some() && *method == Method::OPTIONS {
                explanation.steps.push("Every backend can answer a preflight.".to_owned());
            }
            balanced(pool, client, explanation);
            if !accepts_new(pool) {
                explanation.status = Some(503);
            }
        }
    }
}

/// Describes why the recent sessions select no backend.
fn describe_recent(recalled: Option<Remembered<'_>>, explanation: &mut Explanation) {
    let sentence = match recalled {
        Some(Remembered::Closed) => {
            "This client's last session was on a backend that takes no new sessions."
        }
        Some(Remembered::Ambiguous) => {
            "Sessions of clients with this address and user agent ended on several backends at about the \
             same time: none of them is preferred."
        }
        Some(Remembered::On(_) | Remembered::Unknown) | None => return,
    };
    explanation.steps.push(sentence.to_owned());
}

fn describe_engine(
    engine: Option<&EngineRequest>,
    pool: &PoolSnapshot,
    explanation: &mut Explanation,
) {
    let Some(engine) = engine else { return };
    let transport = if engine.polling { "by polling" } else { "not by polling" };
    let follows = match pool.config().sticky.engine_io {
        true => "",
        false => "; this pool does not follow sessions",
    };
    explanation.steps.push(match engine.sid {
        Some(_) => format!("The query names an Engine.IO session ({transport}){follows}."),
        None => format!("The query names no Engine.IO session ({transport}){follows}."),
    });
}

fn gone(evicted: bool, explanation: &mut Explanation) {
    let why = match evicted {
        true => "The session is known here and was closed by a drain or by an operator",
        false => "The session is known here, and its backend was removed",
    };
    let sentence = format!("{why}: the answer has code 1, so that the client opens a new session.");
    answers(explanation, 400, &sentence);
}

fn searched(
    pool: &PoolSnapshot,
    first: Option<&Arc<Backend>>,
    sid: Option<&str>,
    explanation: &mut Explanation,
) {
    let candidates = affinity::candidates(pool, first, sid.unwrap_or_default());
    if candidates.is_empty() {
        let sentence = "The session is not known here, and there is no backend to ask: the answer has code \
                        1, so that the client opens a new session.";
        return answers(explanation, 400, sentence);
    }
    let names: Vec<&str> = candidates.iter().take(MOST_NAMED).map(|b| b.name()).collect();
    chosen(explanation, ChosenBy::OwnerSearch, None);
    let note = match first {
        Some(_) => {
            " The first one is named by the cookie: if it has the session, the log says `cookie`."
        }
        None => "",
    };
    explanation.steps.push(format!(
        "The session is not known here: {} backends are asked one after the other, first {}.{note}",
        candidates.len(),
        names.join(", ")
    ));
}

pub(super) fn balanced(pool: &PoolSnapshot, client: IpAddr, explanation: &mut Explanation) {
    let policy = match pool.config().balance {
        Balance::LeastSessions => "the backend with the fewest sessions for its weight",
        Balance::RoundRobin => "the next backend in turn",
        Balance::P2c => "the less loaded of two random backends",
        Balance::SourceHash => "the backend that the client address hashes to",
    };
    let backends = pool.upstream.backends();
    let open = backends.iter().filter(|backend| backend.accepts_new()).count();
    let picked = pool.upstream.preview(&source(client));
    chosen(explanation, ChosenBy::Balance, picked);
    explanation.steps.push(match (open, picked) {
        (0, _) => {
            "No backend takes new sessions: requests get 503 with Retry-After, streams wait or end."
                .to_owned()
        }
        (_, picked) => {
            let picked = picked.map_or_else(String::new, |b| format!(": {} now", b.name()));
            let all = backends.len();
            format!("No session or cookie selects a backend. The balance policy takes {policy}, among {open} of \
                 {all} backends{picked}.")
        }
    });
}

fn accepts_new(pool: &PoolSnapshot) -> bool {
    pool.upstream.backends().iter().any(|backend| backend.accepts_new())
}

/// Describes the backends that get no new sessions because of their health.
pub(super) fn unhealthy(pool: &PoolSnapshot, explanation: &mut Explanation) {
    let backups = pool.upstream.backends().iter().filter(|backend| backend.is_backup());
    for backend in backups.take(MOST_NAMED) {
        let name = backend.name();
        explanation.steps.push(match backend.is_standby() {
            true => format!("Backend {name} is a backup, which is not needed now."),
            false => format!("Backend {name} is a backup, and no other backend is available."),
        });
    }
    let backends = pool.upstream.backends().iter();
    let unhealthy = backends.filter(|backend| !backend.is_up() || backend.is_ejected());
    for backend in unhealthy.take(MOST_NAMED) {
        let (name, diagnosis) = (backend.name(), backend.diagnosis());
        if backend.is_up() {
            let reason = diagnosis.ejection().unwrap_or_default();
            explanation.steps.push(format!("Backend {name} is ejected: {reason}."));
            continue;
        }
        let down = diagnosis.since().elapsed().unwrap_or_default().as_secs();
        let down = humantime::format_duration(Duration::from_secs(down));
        explanation.steps.push(match diagnosis.last_failure() {
            Some(failure) => {
                format!("Backend {name} has been down for {down}: {}.", failure.reason)
            }
            None => format!("Backend {name} has been down since before this process started."),
        });
    }
}

fn chosen(explanation: &mut Explanation, by: ChosenBy, backend: Option<&Arc<Backend>>) {
    by.label().clone_into(&mut explanation.chosen_by);
    explanation.backend = backend.map(|backend| backend.name().to_owned());
}

fn condition(backend: &Backend) -> &'static str {
    match backend.lifecycle() {
        Lifecycle::Serving if !backend.is_up() => "which is down; the request is sent to it anyway",
        Lifecycle::Serving => "which serves",
        Lifecycle::Draining => "which drains and keeps it",
        Lifecycle::Evicted => "which was removed",
    }
}
