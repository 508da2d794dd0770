//! Whose an answer is: the process, its configuration file, and the way to it.

use std::path::Path;

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::show::{self, Ink, paint, plain};
use crate::admin::{CONFIG_HEADER, PROCESS_HEADER};

/// Widest line that is printed in one piece.
const WIDTH: usize = 80;

/// The process that has answered.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pid: Option<u32>,
    /// Its configuration file; `None`: it runs from flags.
    config: Option<String>,
    /// Its socket, or the URL of its API.
    pub(super) at: String,
    /// Its user, where that is another one than who asks.
    user: Option<String>,
}

impl Process {
    /// From the headers of its answer.
    pub(super) fn of(headers: &HeaderMap, at: String, user: Option<String>) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let pid = text(&PROCESS_HEADER).and_then(|pid| pid.parse().ok());
        let config = text(&CONFIG_HEADER)
            .map(|path| percent_decode_str(path).decode_utf8_lossy().into_owned());
        Self { pid, config, at, user }
    }

    /// One that does not answer.
    pub(super) fn silent(path: &Path) -> Self {
        Self { pid: None, config: None, at: path.display().to_string(), user: None }
    }

    /// The line below an answer; several where it would be too wide.
    pub(super) fn line(&self) -> String {
        let config = plain(self.config());
        let at = plain(&self.at);
        let user = self.user.as_ref().map(|user| format!(" of user {}", plain(user)));
        let who = format!("{}{}", self.who(), user.unwrap_or_default());
        let mut text = format!("-- {who}, {config}, {at}");
        if text.chars().count() > WIDTH {
            text = format!("-- {who}\n--   {config}\n--   {at}");
        }
        let lines: Vec<String> = text.lines().map(|line| paint(line, Ink::Note)).collect();
        lines.join("\n")
    }

    /// Process and configuration, for a list of several.
    pub(super) fn short(&self) -> String {
        plain(&format!("{}, {}", self.who(), self.config()))
    }

    /// A JSON object with one member more, `process`.
    pub(super) fn signed(&self, json: &str) -> String {
        let Some(rest) = json.trim_start().strip_prefix('{') else { return json.to_owned() };
        let own =
            json!({ "pid": self.pid, "config": self.config, "at": self.at, "user": self.user });
        let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
        format!("{{\"process\":{own}{comma}{rest}")
    }

    fn who(&self) -> String {
        self.pid
            .map_or_else(|| "a process that does not answer".into(), |pid| format!("process {pid}"))
    }

    fn config(&self) -> &str {
        match (&self.config, self.pid) {
            (Some(config), _) => config,
            (None, Some(_)) => "no configuration file",
            (None, None) => "configuration unknown",
        }
    }
}

/// What stands below an answer, where lines are told apart from it.
pub(super) fn print(text: &str, process: &Process) {
    show::out(&format!("{text}\n{}", process.line()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(config: Option<&str>, at: &str) -> Process {
        let config = config.map(str::to_owned);
        Process { pid: Some(7), config, at: at.to_owned(), user: None }
    }

    #[test]
    fn an_answer_says_whose_it_is_within_80_columns() {
        let short = process(Some("/etc/moorline/moorline.toml"), "/run/moorline/moorline.sock");
        let line = short.line();
        assert_eq!(line, "-- process 7, /etc/moorline/moorline.toml, /run/moorline/moorline.sock");
        let long = process(None, &format!("/{}", "x".repeat(70))).line();
        assert_eq!(long.lines().count(), 3, "{long}");
    }

    #[test]
    fn json_has_the_process_beside_the_answer() {
        let process = process(None, "/run/m.sock");
        let signed: serde_json::Value = serde_json::from_str(&process.signed("{\"a\":1}")).unwrap();
        assert_eq!((&signed["a"], &signed["process"]["pid"]), (&1.into(), &7.into()));
        let empty: serde_json::Value = serde_json::from_str(&process.signed("{}")).unwrap();
        assert_eq!(empty["process"]["at"], "/run/m.sock");
    }
}
