//! Carries out what the demo's page orders: through the control handle, as the admin API does, and on the
//! nodes themselves.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{NAMES, POOL, backend};
use crate::{
    api::{BackendCondition, BackendState, BackendTarget, DrainTerms},
    app::ProcessHandle,
    config::Config,
    control::ControlHandle,
    demo::{DemoRequest, NodeState, Nodes, Order, OrderReport},
};

/// Terms of a drain that the page orders, and of one by replacement: people watch.
pub(super) const WITHIN: Duration = Duration::from_secs(5);
pub(super) const SPREAD: Duration = Duration::from_secs(4);
/// Between two looks at whether a replaced node is empty.
const LOOK: Duration = Duration::from_millis(100);

/// What the page's orders are carried out with.
pub(super) struct Control {
    operator: ControlHandle,
    remote: ProcessHandle,
    nodes: Arc<Nodes>,
    /// In force.
    config: Config,
    /// The admin socket of this process.
    socket: Option<PathBuf>,
}

impl Control {
    pub(super) fn new(
        operator: ControlHandle,
        remote: ProcessHandle,
        nodes: Arc<Nodes>,
        config: Config,
        socket: Option<PathBuf>,
    ) -> Self {
        Self { operator, remote, nodes, config, socket }
    }

    /// Obeys, one order after the other, until nobody can give any.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<DemoRequest>) {
        while let Some(DemoRequest { order, answer }) = orders.recv().await {
            let outcome = self.obey(order).await;
            // A page that has been closed does not wait.
            let _ = answer.send(outcome);
        }
    }

    async fn obey(&mut self, order: Order) -> Result<OrderReport, String> {
        let before = self.backends().await?;
        let done = match order {
            Order::Look => String::new(),
            Order::Drain(name) => self.drain(&name, &before).await?,
            Order::Undrain(name) => {
                known(&name, &before)?;
                let undrained = self.operator.undrain(target(&name)).await;
                undrained.map_err(|denied| denied.to_string())?;
                format!("{name} takes new sessions again.")
            }
            Order::Kill(name) => self.kill(&name, &before)?,
            Order::Replace(name) => self.replace(&name, &before).await?,
            Order::Reload => self.reload(&before).await?,
        };
        let backends = self.backends().await?;
        Ok(OrderReport {
            done,
            nodes: self.states(&backends),
            drain_command: self.drain_command(&backends),
            proxy_command: proxy_command(),
        })
    }

    async fn drain(&self, name: &str, before: &[BackendState]) -> Result<String, String> {
        self.spare(name, before)?;
        let how =
            DrainTerms { within: Some(WITHIN.as_secs_f64()), spread: Some(SPREAD.as_secs_f64()) };
        let drained = self.operator.drain(target(name), how).await;
        drained.map_err(|denied| denied.to_string())?;
        let clients = clients(known(name, before)?.sessions);
        Ok(format!(
            "{name} takes no new sessions. Its {clients} will move to other nodes within {} seconds.",
            WITHIN.as_secs()
        ))
    }

    fn kill(&self, name: &str, before: &[BackendState]) -> Result<String, String> {
        self.spare(name, before)?;
        if !self.nodes.runs(name) {
            return Err(format!("{name} does not run"));
        }
        self.nodes.kill(name);
        let clients = clients(known(name, before)?.sessions);
        Ok(format!("{name} was killed, and its {clients} lost it. They come back on other nodes."))
    }

    /// Starts a node and takes the old one out of the configuration, which drains it.
    async fn replace(&mut self, name: &str, before: &[BackendState]) -> Result<String, String> {
        known(name, before)?;
        if !self.configured().any(|backend| backend.name == name) {
            return Err(format!("{name} is being replaced"));
        }
        let new = self.free_name(before);
        let address = self.nodes.add(&new).await.map_err(|e| format!("{new} cannot start: {e}"))?;
        for pool in &mut self.config.pools {
            pool.backends.push(backend(&new, address));
        }
        self.apply().await?;
        for pool in &mut self.config.pools {
            pool.backends.retain(|backend| backend.name != name);
        }
        self.apply().await?;
        let old = name.to_owned();
        tokio::spawn(retire(self.operator.clone(), Arc::clone(&self.nodes), old));
        Ok(format!(
            "{new} has taken the place of {name}. The clients of {name} move within {} seconds; then {name} \
             stops.",
            WITHIN.as_secs()
        ))
    }

    async fn reload(&self, before: &[BackendState]) -> Result<String, String> {
        self.apply().await?;
        let after = self.backends().await?;
        let sum = |backends: &[BackendState]| backends.iter().map(|b| b.sessions).sum::<u64>();
        let (before, after) = (sum(before), sum(&after));
        let lost = match before.saturating_sub(after) {
            0 => "No client was disconnected.".to_owned(),
            gone => format!("{} left meanwhile.", clients(gone)),
        };
        Ok(format!(
            "The configuration was put in force again. Sessions before: {before}, after: {after}. {lost}"
        ))
    }

    async fn apply(&self) -> Result<(), String> {
        self.remote.apply(self.config.clone()).await.map(|_| ()).map_err(|error| error.to_string())
    }

    /// The pool's backends, those on their way out included.
    async fn backends(&self) -> Result<Vec<BackendState>, String> {
        backends(&self.operator).await
    }

    fn configured(&self) -> impl Iterator<Item = &crate::config::BackendConfig> {
        let pool = self.config.pools.iter().find(|pool| pool.name == POOL);
        pool.into_iter().flat_map(|pool| &pool.backends)
    }

    /// Refuses to take the last node away: it serves the page.
    fn spare(&self, name: &str, backends: &[BackendState]) -> Result<(), String> {
        known(name, backends)?;
        match self.is_last(name, backends) {
            true => {
                Err(format!("{name} is the last node that takes sessions, and serves this page"))
            }
            false => Ok(()),
        }
    }

    fn is_last(&self, name: &str, backends: &[BackendState]) -> bool {
        let serves = |backend: &&BackendState| self.serves(backend);
        self.named(name, backends) && backends.iter().filter(serves).all(|b| b.name == name)
    }

    fn named(&self, name: &str, backends: &[BackendState]) -> bool {
        backends.iter().any(|backend| backend.name == name && self.serves(backend))
    }

    fn serves(&self, backend: &BackendState) -> bool {
        let up = matches!(backend.state, BackendCondition::Up | BackendCondition::SlowStart);
        up && self.nodes.runs(&backend.name)
    }

    /// The first name that no node has; where all are taken, a second one of the first.
    fn free_name(&self, backends: &[BackendState]) -> String {
        let taken = |name: &str| {
            self.nodes.runs(name)
                || backends.iter().any(|backend| backend.name == name)
                || self.configured().any(|backend| backend.name == name)
        };
        let later = (2..).flat_map(|round| NAMES.map(|name| format!("{name}-{round}")));
        let names = NAMES.map(str::to_owned).into_iter().chain(later);
        names.into_iter().find(|name| !taken(name)).unwrap_or_default()
    }

    fn states(&self, backends: &[BackendState]) -> Vec<NodeState> {
        let state = |backend: &BackendState| match backend.state {
            BackendCondition::Leaving => "leaving",
            _ if !self.nodes.runs(&backend.name) => "killed",
            BackendCondition::Drained => "drained",
            BackendCondition::Draining => "draining",
            BackendCondition::Down => "down",
            BackendCondition::Ejected => "ejected",
            BackendCondition::SlowStart => "slow-start",
            BackendCondition::Up => "up",
        };
        let each = backends.iter().map(|backend| NodeState {
            name: backend.name.clone(),
            state: state(backend).to_owned(),
            sessions: backend.sessions,
            last: self.is_last(&backend.name, backends),
        });
        each.collect()
    }

    fn drain_command(&self, backends: &[BackendState]) -> Option<String> {
        let first = backends.iter().find(|backend| self.serves(backend))?;
        Some(drain_command(&first.name, self.socket.as_deref()?))
    }
}

/// Ends a node that has left the configuration once nobody is on it, or its drain is over.
async fn retire(operator: ControlHandle, nodes: Arc<Nodes>, name: String) {
    let deadline = Instant::now() + WITHIN;
    while Instant::now() < deadline {
        let Ok(backends) = backends(&operator).await else { break };
        if !backends.iter().any(|backend| backend.name == name && backend.sessions > 0) {
            break;
        }
        sleep(LOOK).await;
    }
    nodes.stop(&name);
}

async fn backends(operator: &ControlHandle) -> Result<Vec<BackendState>, String> {
    let status = operator.status().await.map_err(|denied| denied.to_string())?;
    let pool = status.pools.into_iter().find(|pool| pool.name == POOL);
    Ok(pool.map(|pool| pool.backends).unwrap_or_default())
}

fn known<'a>(name: &str, backends: &'a [BackendState]) -> Result<&'a BackendState, String> {
    let found = backends.iter().find(|backend| backend.name == name);
    found.ok_or_else(|| format!("there is no node {name:?}"))
}

fn target(name: &str) -> BackendTarget {
    BackendTarget { pool: Some(POOL.to_owned()), backend: Some(name.to_owned()) }
}

fn clients(sessions: u64) -> String {
    match sessions {
        1 => "1 client".to_owned(),
        many => format!("{many} clients"),
    }
}

/// What to type to drain a node of the demo that has its admin socket there.
pub(super) fn drain_command(node: &str, socket: &Path) -> String {
    let within = WITHIN.as_secs();
    let socket = quoted(&socket.display().to_string());
    format!("{} drain {POOL}/{node} --within {within}s --socket {socket}", program())
}

/// What to type to put a proxy before one's own nodes.
pub(super) fn proxy_command() -> String {
    format!("{} proxy --backend 127.0.0.1:3001 --backend 127.0.0.1:3002", program())
}

/// How this program is called from a shell: by its name where the shell finds it by that, else by its path.
fn program() -> String {
    let Ok(own) = env::current_exe() else { return "moorline".to_owned() };
    let name = own.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folders = env::var_os("PATH").unwrap_or_default();
    let first = env::split_paths(&folders).map(|folder| folder.join(&name)).find(|at| at.is_file());
    if first.is_some_and(|first| first.canonicalize().ok() == own.canonicalize().ok()) {
        return quoted(&name);
    }
    let here = env::current_dir().ok().and_then(|here| own.strip_prefix(here).ok());
    match here {
        Some(below) => quoted(&format!("./{}", below.display())),
        None => quoted(&own.display().to_string()),
    }
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("/run/user/0/moorline.sock"), "/run/user/0/moorline.sock");
        assert_eq!(quoted("/tmp/it's here"), "'/tmp/it'\\''s here'");
    }
}
