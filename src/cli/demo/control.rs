//! Executes the actions of the demo's page, through the control handle and on the nodes.

use std::{
    env, io,
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
    demo::{ActionError, ActionReport, DemoAction, DemoRequest, NodeState, Nodes},
};

/// Deadline and spread of drains; short, because people watch.
pub(super) const WITHIN: Duration = Duration::from_secs(5);
pub(super) const SPREAD: Duration = Duration::from_secs(4);
/// Interval at which a replaced node is checked for sessions.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Executes the page's actions.
pub(super) struct DemoControl {
    control: ControlHandle,
    remote: ProcessHandle,
    nodes: Arc<Nodes>,
    /// The current configuration.
    config: Config,
    /// The admin socket of this process.
    socket: Option<PathBuf>,
}

impl DemoControl {
    pub(super) fn new(
        control: ControlHandle,
        remote: ProcessHandle,
        nodes: Arc<Nodes>,
        config: Config,
        socket: Option<PathBuf>,
    ) -> Self {
        Self { control, remote, nodes, config, socket }
    }

    /// Executes actions, one after the other, until the nodes are dropped.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<DemoRequest>) {
        while let Some(DemoRequest { action, reply }) = requests.recv().await {
            let result = self.execute(action).await;
            // Fails if the page was closed meanwhile.
            let _ = reply.send(result);
        }
    }

    async fn execute(&mut self, action: DemoAction) -> Result<ActionReport, ActionError> {
        let before = self.backends().await?;
        let done = match action {
            DemoAction::Show => String::new(),
            DemoAction::Drain(name) => self.drain(&name, &before).await?,
            DemoAction::Undrain(name) => {
                find_node(&name, &before)?;
                let undrained = self.control.undrain(target(&name)).await;
                undrained.map_err(rejected)?;
                format!("{name} takes new sessions again.")
            }
            DemoAction::Kill(name) => self.kill(&name, &before)?,
            DemoAction::Replace(name) => self.replace(&name, &before).await?,
            DemoAction::Reload => self.reload(&before).await?,
        };
        let backends = self.backends().await?;
        Ok(ActionReport {
            done,
            nodes: self.states(&backends),
            drain_command: self.drain_command(&backends),
            proxy_command: proxy_command(),
        })
    }

    async fn drain(&self, name: &str, before: &[BackendState]) -> Result<String, ActionError> {
        self.check_not_last(name, before)?;
        let terms =
            DrainTerms { within: Some(WITHIN.as_secs_f64()), spread: Some(SPREAD.as_secs_f64()) };
        let drained = self.control.drain(target(name), terms).await;
        drained.map_err(rejected)?;
        let clients = clients(find_node(name, before)?.sessions);
        Ok(format!(
            "{name} takes no new sessions. Its {clients} will move to other nodes within {} seconds.",
            WITHIN.as_secs()
        ))
    }

    fn kill(&self, name: &str, before: &[BackendState]) -> Result<String, ActionError> {
        self.check_not_last(name, before)?;
        if !self.nodes.runs(name) {
            return Err(ActionError::NotRunning(name.to_owned()));
        }
        self.nodes.kill(name);
        let clients = clients(find_node(name, before)?.sessions);
        Ok(format!(
            "{name} was killed. Its {clients} lost the connection and reconnect to other nodes."
        ))
    }

    /// Starts a new node and removes the old one from the configuration, which drains it.
    async fn replace(
        &mut self,
        name: &str,
        before: &[BackendState],
    ) -> Result<String, ActionError> {
        find_node(name, before)?;
        if !self.configured().any(|backend| backend.name == name) {
            return Err(ActionError::BeingReplaced(name.to_owned()));
        }
        let new = self.free_name(before);
        let not_started = |error: io::Error| ActionError::NotStarted {
            node: new.clone(),
            error: error.to_string(),
        };
        let address = self.nodes.add(&new).await.map_err(not_started)?;
        for pool in &mut self.config.pools {
            pool.backends.push(backend(&new, address));
        }
        self.apply().await?;
        for pool in &mut self.config.pools {
            pool.backends.retain(|backend| backend.name != name);
        }
        self.apply().await?;
        let old = name.to_owned();
        tokio::spawn(stop_when_empty(self.control.clone(), Arc::clone(&self.nodes), old));
        Ok(format!(
            "{new} replaces {name}. The clients of {name} move within {} seconds; then {name} stops.",
            WITHIN.as_secs()
        ))
    }

    async fn reload(&self, before: &[BackendState]) -> Result<String, ActionError> {
        self.apply().await?;
        let after = self.backends().await?;
        let sum = |backends: &[BackendState]| backends.iter().map(|b| b.sessions).sum::<u64>();
        let (before, after) = (sum(before), sum(&after));
        let lost = match before.saturating_sub(after) {
            0 => "No client was disconnected.".to_owned(),
            ended => format!("{} disconnected meanwhile.", clients(ended)),
        };
        Ok(format!(
            "The configuration was reloaded. Sessions before: {before}, after: {after}. {lost}"
        ))
    }

    async fn apply(&self) -> Result<(), ActionError> {
        self.remote.apply(self.config.clone()).await.map(|_| ()).map_err(rejected)
    }

    /// Returns the backends of the pool, including removed backends that still hold sessions.
    async fn backends(&self) -> Result<Vec<BackendState>, ActionError> {
        backends(&self.control).await
    }

    fn configured(&self) -> impl Iterator<Item = &crate::config::BackendConfig> {
        let pool = self.config.pools.iter().find(|pool| pool.name == POOL);
        pool.into_iter().flat_map(|pool| &pool.backends)
    }

    /// Protects the last node, which serves the page.
    fn check_not_last(&self, name: &str, backends: &[BackendState]) -> Result<(), ActionError> {
        find_node(name, backends)?;
        match self.is_last(name, backends) {
            true => Err(ActionError::LastNode(name.to_owned())),
            false => Ok(()),
        }
    }

    fn is_last(&self, name: &str, backends: &[BackendState]) -> bool {
        let serves = |backend: &&BackendState| self.serves(backend);
        self.serves_name(name, backends) && backends.iter().filter(serves).all(|b| b.name == name)
    }

    fn serves_name(&self, name: &str, backends: &[BackendState]) -> bool {
        backends.iter().any(|backend| backend.name == name && self.serves(backend))
    }

    fn serves(&self, backend: &BackendState) -> bool {
        let up = matches!(backend.state, BackendCondition::Up | BackendCondition::SlowStart);
        up && self.nodes.runs(&backend.name)
    }

    /// Returns the first name that no node has; if all are in use, a name with a number.
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
            // The demo has no backups.
            BackendCondition::Standby | BackendCondition::Up => "up",
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

/// Stops a removed node when it has no sessions, or at the deadline of its drain.
async fn stop_when_empty(control: ControlHandle, nodes: Arc<Nodes>, name: String) {
    let deadline = Instant::now() + WITHIN;
    while Instant::now() < deadline {
        let Ok(backends) = backends(&control).await else { break };
        if !backends.iter().any(|backend| backend.name == name && backend.sessions > 0) {
            break;
        }
        sleep(POLL_INTERVAL).await;
    }
    nodes.stop(&name);
}

async fn backends(control: &ControlHandle) -> Result<Vec<BackendState>, ActionError> {
    let status = control.status().await.map_err(rejected)?;
    let pool = status.pools.into_iter().find(|pool| pool.name == POOL);
    Ok(pool.map(|pool| pool.backends).unwrap_or_default())
}

fn find_node<'a>(
    name: &str,
    backends: &'a [BackendState],
) -> Result<&'a BackendState, ActionError> {
    let found = backends.iter().find(|backend| backend.name == name);
    found.ok_or_else(|| ActionError::UnknownNode(name.to_owned()))
}

fn rejected(error: impl ToString) -> ActionError {
    ActionError::Rejected(error.to_string())
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

/// Returns the command that drains a node of the demo with this admin socket.
pub(super) fn drain_command(node: &str, socket: &Path) -> String {
    let within = WITHIN.as_secs();
    let socket = quoted(&socket.display().to_string());
    format!("{} drain {POOL}/{node} --within {within}s --socket {socket}", program())
}

/// Returns the command that starts a proxy for the user's own nodes.
pub(super) fn proxy_command() -> String {
    format!("{} proxy --backend 127.0.0.1:3001 --backend 127.0.0.1:3002", program())
}

/// Returns this program as typed in a shell: its name if it is in `PATH`, else its path.
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
        Some(relative) => quoted(&format!("./{}", relative.display())),
        None => quoted(&own.display().to_string()),
    }
}

/// Quotes a word for a POSIX shell.
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
