//! Sessions and tunnels for operators: lists them, finds them by sid, closes one.
//!
//! Reads shared state, without waiting for the control task. No reply contains a sid.

use std::{sync::Arc, time::Instant};

use super::{CommandError, overlay};
use crate::{
    api::{BackendTarget, Revoked, SessionKind, SessionList, SessionState, Whereabouts},
    auth,
    shared::SharedState,
    snapshot::Snapshot,
    sticky::table::{SessionId, SessionSummary},
    tunnel::{CloseReason, TunnelId},
    upstream::Backend,
};

/// Lists at most `limit` sessions of these backends: tunnels and streams first, then polling sessions.
///
/// # Errors
/// The target does not exist, or is invalid.
pub(super) fn list(
    proxy: &SharedState,
    target: &BackendTarget,
    limit: usize,
) -> Result<SessionList, CommandError> {
    let snapshot = proxy.snapshot.load();
    let backends = backends_of(&snapshot, target)?;
    let total = backends.iter().map(|backend| backend.sessions() as u64).sum();
    let mut sessions = Vec::new();
    for backend in &backends {
        let tunnels = proxy.tunnels.list(backend.serial(), limit - sessions.len());
        sessions.extend(tunnels.iter().map(|tunnel| SessionState {
            id: tunnel.id.to_string(),
            pool: backend.pool().to_owned(),
            backend: backend.name().to_owned(),
            kind: if tunnel.framed { SessionKind::Tunnel } else { SessionKind::Stream },
            client: Some(tunnel.client.to_string()),
            age: Some(tunnel.age.as_secs_f64()),
        }));
    }
    for backend in &backends {
        let polling = proxy.sids.polling(backend, limit - sessions.len());
        sessions.extend(polling.iter().map(state));
    }
    Ok(SessionList { total, sessions })
}

/// Returns the backends that know a session id.
pub(super) fn find(proxy: &SharedState, sid: &str) -> Whereabouts {
    let snapshot = proxy.snapshot.load();
    let pools = snapshot.pools.iter().map(|pool| pool.upstream.name());
    let found = proxy.sids.whereabouts(pools, sid, Instant::now());
    Whereabouts { found: found.iter().map(state).collect() }
}

/// Closes a tunnel at a frame boundary, or evicts a polling session. A tunnel that is already being closed
/// is cut.
///
/// # Errors
/// The session does not exist, or its name is invalid.
pub(super) fn close(proxy: &SharedState, id: &str) -> Result<(), CommandError> {
    let closed = if let Ok(tunnel) = id.parse::<TunnelId>() {
        proxy.tunnels.close_one(tunnel, CloseReason::Operator)
    } else if let Ok(session) = id.parse::<SessionId>() {
        proxy.sids.evict_one(session)
    } else {
        return Err(CommandError::Invalid(format!(
            "invalid session name {id}; `moorline sessions` lists the names"
        )));
    };
    match closed {
        true => Ok(()),
        false => Err(CommandError::NotFound(format!("there is no session {id} to close any more"))),
    }
}

/// Ends all sessions of a subject, and refuses its tokens that were issued until now.
///
/// # Errors
/// The subject is empty.
pub(super) fn revoke(proxy: &SharedState, subject: &str) -> Result<Revoked, CommandError> {
    if subject.is_empty() {
        return Err(CommandError::Invalid("the subject is empty".to_owned()));
    }
    let (sessions, tunnels) = proxy.auth.identities.revoke(subject, auth::now());
    let (sessions, tunnels) = (sessions as u64, tunnels as u64);
    Ok(Revoked { subject: subject.to_owned(), sessions, tunnels })
}

/// Returns the backends of a target, including removed backends that drain.
fn backends_of(
    snapshot: &Snapshot,
    target: &BackendTarget,
) -> Result<Vec<Arc<Backend>>, CommandError> {
    if target.pool.is_none() && target.backend.is_some() {
        return Err(CommandError::Invalid("the name of a backend needs its pool too".to_owned()));
    }
    let in_pool = |pool: &str| target.pool.as_deref().is_none_or(|wanted| wanted == pool);
    let is_wanted = |name: &str| target.backend.as_deref().is_none_or(|wanted| wanted == name);
    let all = snapshot.holders().filter(|backend| in_pool(backend.pool()));
    let backends: Vec<_> = all.filter(|backend| is_wanted(backend.name())).cloned().collect();
    let has_pool = snapshot.pools.iter().any(|pool| in_pool(pool.upstream.name()));
    match (&target.pool, &target.backend) {
        (Some(_), None) if !has_pool && backends.is_empty() => {}
        (_, Some(_)) if backends.is_empty() => {}
        _ => return Ok(backends),
    }
    Err(CommandError::NotFound(format!("there is no {}", overlay::target_name(target))))
}

fn state(session: &SessionSummary) -> SessionState {
    SessionState {
        id: session.id.to_string(),
        pool: session.backend.pool().to_owned(),
        backend: session.backend.name().to_owned(),
        kind: if session.tunnel { SessionKind::Tunnel } else { SessionKind::Polling },
        client: session.client.map(|client| client.to_string()),
        age: session.age.map(|age| age.as_secs_f64()),
    }
}
