//! The process that sent a reply: process id, configuration file and address.

use std::path::Path;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::show::{self, Color, paint, plain};
use crate::admin::{CONFIG_HEADER, PROCESS_HEADER};

/// Maximum width of a line that is not split.
const WIDTH: usize = 80;

/// The process that sent a reply.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pid: Option<u32>,
    /// Its configuration file; `None`: it was configured by flags.
    config: Option<String>,
    /// Its socket, or the URL of its API.
    pub(super) at: String,
    /// Its user, if it is not the current user.
    user: Option<String>,
}

impl Process {
    /// Reads the headers of a reply.
    pub(super) fn from_headers(headers: &HeaderMap, at: String, user: Option<String>) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let pid = text(&PROCESS_HEADER).and_then(|pid| pid.parse().ok());
        let config = text(&CONFIG_HEADER)
            .map(|path| percent_decode_str(path).decode_utf8_lossy().into_owned());
        Self { pid, config, at, user }
    }

    /// A process that does not reply.
    pub(super) fn unresponsive(path: &Path) -> Self {
        Self { pid: None, config: None, at: path.display().to_string(), user: None }
    }

    /// Returns the line below a reply; several lines if it would be too wide.
    pub(super) fn line(&self) -> String {
        let config = plain(self.config());
        let at = plain(&self.at);
        let user = self.user.as_ref().map(|user| format!(" of user {}", plain(user)));
        let name = format!("{}{}", self.name(), user.unwrap_or_default());
        let mut text = format!("-- {name}, {config}, {at}");
        if text.chars().count() > WIDTH {
            text = format!("-- {name}\n--   {config}\n--   {at}");
        }
        let lines: Vec<String> = text.lines().map(|line| paint(line, Color::Warning)).collect();
        lines.join("\n")
    }

    /// Returns process id and configuration, for a list of processes.
    pub(super) fn short(&self) -> String {
        plain(&format!("{}, {}", self.name(), self.config()))
    }

    /// Adds the member `process` to a JSON object.
    pub(super) fn with_process(&self, json: &str) -> String {
        let Some(rest) = json.trim_start().strip_prefix('{') else { return json.to_owned() };
        let own =
            json!({ "pid": self.pid, "config": self.config, "at": self.at, "user": self.user });
        let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
        format!("{{\"process\":{own}{comma}{rest}")
    }

    fn name(&self) -> String {
        self.pid
            .map_or_else(|| "a process that does not reply".into(), |pid| format!("process {pid}"))
    }

    fn config(&self) -> &str {
        match (&self.config, self.pid) {
            (Some(config), _) => config,
            (None, Some(_)) => "no configuration file",
            (None, None) => "configuration unknown",
        }
    }
}

/// Prints a text with the process below it.
pub(super) fn print(text: &str, process: &Process) {
    show::print(&format!("{text}\n{}", process.line()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(config: Option<&str>, at: &str) -> Process {
        let config = config.map(str::to_owned);
        Process { pid: Some(7), config, at: at.to_owned(), user: None }
    }

    #[test]
    fn the_line_of_a_process_fits_80_columns() {
        let short = process(Some("/etc/moorline/moorline.toml"), "/run/moorline/moorline.sock");
        let line = short.line();
        assert_eq!(line, "-- process 7, /etc/moorline/moorline.toml, /run/moorline/moorline.sock");
        let long = process(None, &format!("/{}", "x".repeat(70))).line();
        assert_eq!(long.lines().count(), 3, "{long}");
    }

    #[test]
    fn the_process_is_added_to_json() {
        let process = process(None, "/run/m.sock");
        let reply: serde_json::Value =
            serde_json::from_str(&process.with_process("{\"a\":1}")).unwrap();
        assert_eq!((&reply["a"], &reply["process"]["pid"]), (&1.into(), &7.into()));
        let empty: serde_json::Value = serde_json::from_str(&process.with_process("{}")).unwrap();
        assert_eq!(empty["process"]["at"], "/run/m.sock");
    }
}
