//! `moorline explain URL`: shows which backend would get a request, and by which rule.

use std::{fmt::Write as _, net::IpAddr, process::ExitCode};

use http::Method;

use super::{
    client::Access,
    flags,
    show::{Color, paint, plain},
};
use crate::api::{ExplainRequest, Explanation};

/// Arguments of `explain`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
The explanation uses the current state of the running process. No request is sent to a backend and no \
session is created. The access log has the same rule in `chosen_by`.

Examples:
  moorline explain 'https://chat.example.com/socket.io/?EIO=4&transport=polling'
  moorline explain 'https://chat.example.com/socket.io/?EIO=4&transport=websocket&sid=…' \\
      --cookie 'moorline-chat=…' --client 192.0.2.7")]
pub struct Args {
    /// The request's URL, `https://HOST[:PORT]/PATH?QUERY`; `tcp://HOST:PORT` or `tls://NAME:PORT` for a
    /// layer-4 stream
    pub url: String,
    /// The method [default: GET]
    #[arg(long)]
    pub method: Option<String>,
    /// The `Cookie` header
    #[arg(long)]
    pub cookie: Option<String>,
    /// Another header field; can be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Distinguished name of the client's certificate
    #[arg(long, value_name = "NAME")]
    pub certificate_subject: Option<String>,
    /// SHA-256 fingerprint of the client's certificate
    #[arg(long, value_name = "HEX")]
    pub certificate_fingerprint: Option<String>,
    /// The client's address
    #[arg(long, value_name = "IP", value_parser = flags::ip)]
    pub client: Option<IpAddr>,
    /// The `User-Agent` header
    #[arg(long)]
    pub user_agent: Option<String>,
    /// The request is a WebSocket upgrade; implied by `transport=websocket` in the query of a GET
    #[arg(long)]
    pub upgrade: bool,
    /// Access to the process.
    #[command(flatten)]
    pub access: Access,
}

impl Args {
    /// Sends the request and prints the reply.
    ///
    /// # Errors
    /// The process cannot be reached, or the URL is invalid.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let request = ExplainRequest {
            url: self.url,
            method: self.method,
            cookie: self.cookie,
            headers: self.headers,
            certificate_subject: self.certificate_subject,
            certificate_fingerprint: self.certificate_fingerprint,
            client: self.client,
            user_agent: self.user_agent,
            upgrade: self.upgrade,
        };
        let reply = self.access.request(Method::POST, "/v1/explain", Some(&request)).await?;
        reply.print(&self.access, text);
        Ok(ExitCode::SUCCESS)
    }
}

fn text(explanation: &Explanation) -> String {
    let mut text = String::new();
    let status = explanation.status.map(|status| format!("{status}, sent by the proxy itself"));
    let parts = [
        ("listener", explanation.listener.as_deref()),
        ("route", explanation.route.as_deref()),
        ("pool", explanation.pool.as_deref()),
        ("backend", explanation.backend.as_deref()),
        ("chosen by", Some(explanation.chosen_by.as_str()).filter(|rule| !rule.is_empty())),
    ];
    // The status of a backend's reply is not known.
    let status = status.as_deref().map(|status| ("status", Some(status)));
    for (name, part) in parts.into_iter().chain(status) {
        // Padded before colors are added, because escape sequences have no width.
        let name = paint(&format!("{name:<11}"), Color::Heading);
        let _ = match part {
            Some(part) => writeln!(text, "{name}{}", plain(part)),
            None => writeln!(text, "{name}–"),
        };
    }
    for (number, step) in (1..).zip(&explanation.steps) {
        let gap = if number == 1 { "\n" } else { "" };
        let _ = writeln!(text, "{gap}{number}. {}", plain(step));
    }
    text
}
