//! `bind` lines: addresses and TLS.

use std::net::IpAddr;

use super::{
    super::{
        draft::{CertificateDraft, ListenerDraft},
        files::has_wildcard,
        note::NoteKind,
    },
    HaproxyTranslator,
    syntax::ConfigLine,
};

/// Maximum number of ports in a range.
const MOST_PORTS: u16 = 64;

/// Parameters of a `bind` line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BindParameters {
    /// Addresses with ports.
    pub(super) addresses: Vec<String>,
    /// Whether TLS ends here.
    pub(super) tls: bool,
    /// Files of certificates.
    pub(super) certificates: Vec<CertificateDraft>,
    /// Whether connections begin with a PROXY header.
    pub(super) accept_proxy: bool,
    /// Settings of TLS: keys below `tls` and TOML values.
    pub(super) settings: Vec<(&'static str, String)>,
}

impl<'t> HaproxyTranslator<'t> {
    /// Reads a `bind` line.
    pub(super) fn bind(&mut self, line: &'t ConfigLine) -> BindParameters {
        line.take();
        let mut bind = BindParameters::default();
        for typed in line.word(1).split(',') {
            match addresses(typed) {
                Ok(addresses) => bind.addresses.extend(addresses),
                Err(reason) => {
                    self.note(NoteKind::Untranslated, line, format!("`{typed}`: {reason}"))
                }
            }
        }
        let mut words = line.rest(2).iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "ssl" => bind.tls = true,
                "accept-proxy" => bind.accept_proxy = true,
                "crt" => self.certificates(&mut bind, line, words.next().unwrap_or("")),
                "verify" => bind.verify(words.next().unwrap_or("")),
                "ca-file" => {
                    let file = self.file(words.next().unwrap_or(""), "ca-base");
                    bind.set("tls.client_auth.ca", &file);
                }
                "crl-file" => {
                    let file = self.file(words.next().unwrap_or(""), "ca-base");
                    bind.set("tls.client_auth.crl", &file);
                }
                "ssl-min-ver" => self.version(&mut bind, line, words.next().unwrap_or("")),
                "strict-sni" => bind.set("tls.unknown_sni", "refuse"),
                "alpn" | "npn" => {
                    if words.next().is_some_and(|names| names.split(',').any(|name| name == "h2")) {
                        let reason =
                            "`h2`: clients are served HTTP/1.1, in which WebSockets and polls work";
                        self.note(NoteKind::Untranslated, line, reason);
                    }
                }
                "no-sslv3"
                | "no-tlsv10"
                | "no-tlsv11"
                | "v4v6"
                | "v6only"
                | "transparent"
                | "name"
                | "level"
                | "user"
                | "group"
                | "mode"
                | "tfo"
                | "defer-accept"
                | "no-tls-tickets"
                | "prefer-client-ciphers" => {
                    if matches!(word, "name" | "level" | "user" | "group" | "mode") {
                        words.next();
                    }
                    if word == "v4v6" {
                        bind.both_families();
                    }
                }
                other => {
                    let value =
                        VALUED.contains(&other).then(|| words.next()).flatten().unwrap_or("");
                    let shown = format!("{other} {value}");
                    let reason =
                        format!("`{}`: listeners have no equivalent setting", shown.trim_end());
                    self.note(NoteKind::Untranslated, line, reason);
                }
            }
        }
        if bind.tls {
            self.global_version(&mut bind);
        }
        bind
    }

    /// The certificates of a file, or of every file in a folder. Each holds chain and key.
    fn certificates(&mut self, bind: &mut BindParameters, line: &ConfigLine, path: &str) {
        let path = self.file(path, "crt-base");
        let folder = (self.files.list)(path.as_ref()).ok();
        let paths: Vec<String> = match folder {
            Some(names) => {
                let files = names.iter().filter(|name| {
                    !name.starts_with('.')
                        && ![".key", ".ocsp", ".issuer", ".sctl"]
                            .iter()
                            .any(|end| name.ends_with(end))
                });
                files.map(|name| format!("{}/{name}", path.trim_end_matches('/'))).collect()
            }
            None => vec![path],
        };
        if paths.iter().any(|path| has_wildcard(path)) {
            self.note(NoteKind::Untranslated, line, "a certificate is a file with a fixed path");
            return;
        }
        for cert in paths {
            // The key may be in a separate file.
            let beside = format!("{cert}.key");
            let has_own = (self.files.read)(beside.as_ref()).is_ok();
            let key = if has_own { beside } else { cert.clone() };
            bind.certificates.push(CertificateDraft { cert, key, ocsp: None });
        }
    }

    fn version(&mut self, bind: &mut BindParameters, line: &ConfigLine, version: &str) {
        match version {
            "TLSv1.3" => bind.set("tls.min_version", "1.3"),
            "TLSv1.2" => {}
            _ => self.note(NoteKind::Different, line, "only TLS 1.2 and 1.3 are supported"),
        }
    }

    /// `ssl-default-bind-options ssl-min-ver …` of `global`.
    fn global_version(&mut self, bind: &mut BindParameters) {
        let lines = self.global.iter().flat_map(|section| &section.lines);
        let lines: Vec<&ConfigLine> =
            lines.filter(|line| line.begins(&["ssl-default-bind-options"])).collect();
        for line in lines {
            line.take();
            let at = line.words.iter().position(|word| word == "ssl-min-ver");
            let version = at.map_or("", |at| line.word(at + 1));
            let set = bind.settings.iter().any(|(key, _)| *key == "tls.min_version");
            if !version.is_empty() && !set {
                self.version(bind, line, version);
            }
        }
    }
}

impl BindParameters {
    fn set(&mut self, key: &'static str, value: &str) {
        self.settings.push((key, super::super::draft::quoted(value)));
    }

    fn verify(&mut self, mode: &str) {
        match mode {
            "required" => self.set("tls.client_auth.mode", "required"),
            "optional" => self.set("tls.client_auth.mode", "optional"),
            _ => {}
        }
    }

    /// `v4v6`: an IPv6 wildcard takes IPv4, too.
    fn both_families(&mut self) {
        let ports = self.addresses.iter().filter_map(|address| address.strip_prefix("[::]:"));
        let more: Vec<String> = ports.map(|port| format!("0.0.0.0:{port}")).collect();
        self.addresses.extend(more);
    }

    /// Whether another line may share a listener with this one.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.tls, &self.certificates, self.accept_proxy, &self.settings)
            == (other.tls, &other.certificates, other.accept_proxy, &other.settings)
    }

    /// Writes what is not an address to a listener.
    pub(super) fn apply(&self, listener: &mut ListenerDraft) {
        listener.certificates.clone_from(&self.certificates);
        let has_ca = self.settings.iter().any(|(key, _)| *key == "tls.client_auth.ca");
        let has_mode = self.settings.iter().any(|(key, _)| *key == "tls.client_auth.mode");
        for (key, value) in &self.settings {
            // Client authentication needs both a mode and authorities.
            if !key.starts_with("tls.client_auth") || (has_ca && has_mode) {
                listener.settings.set(key, value.clone());
            }
        }
    }
}

/// Parameters of `bind` that have a value.
const VALUED: [&str; 24] = [
    "backlog",
    "maxconn",
    "nice",
    "process",
    "thread",
    "interface",
    "mss",
    "id",
    "ciphers",
    "ciphersuites",
    "curves",
    "ecdhe",
    "crt-list",
    "ca-sign-file",
    "ca-verify-file",
    "ssl-max-ver",
    "tls-ticket-keys",
    "tcp-ut",
    "namespace",
    "proto",
    "severity-output",
    "crt-ignore-err",
    "ca-ignore-err",
    "shards",
];

/// The addresses of a word: `:80`, `*:443`, `10.0.0.1:80`, `[::]:80`, `:::80`, `:8000-8003`.
fn addresses(typed: &str) -> Result<Vec<String>, &'static str> {
    let typed = ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"]
        .iter()
        .find_map(|prefix| typed.strip_prefix(prefix))
        .unwrap_or(typed);
    if typed.starts_with('/') || typed.contains('@') {
        return Err("listeners have IP addresses; unix sockets are not supported");
    }
    let (host, ports) = typed.rsplit_once(':').ok_or("a listener needs a port")?;
    let host = match host {
        "" | "*" => "0.0.0.0".to_owned(),
        "localhost" => "127.0.0.1".to_owned(),
        host => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            match bare.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) => ip.to_string(),
                Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
                Err(_) => return Err("write the IP address: `bind` takes no names and variables"),
            }
        }
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
    let (first, last) = range.filter(|(first, last)| first <= last).ok_or("this is not a port")?;
    if last - first >= MOST_PORTS {
        return Err("the range of ports is too long: write the addresses");
    }
    Ok((first..=last).map(|port| format!("{host}:{port}")).collect())
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn addresses_have_an_ip_and_a_port() {
        for (typed, expected) in [
            (":80", "0.0.0.0:80"),
            ("*:443", "0.0.0.0:443"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::]:80", "[::]:80"),
            (":::80", "[::]:80"),
            ("ipv6@::1:80", "[::1]:80"),
            (":8000-8002", "0.0.0.0:8000 0.0.0.0:8001 0.0.0.0:8002"),
        ] {
            assert_eq!(addresses(typed).unwrap().join(" "), expected, "{typed}");
        }
        for bad in ["/run/x.sock", "unix@x", "80", "${IP}:80", ":1-65535", ":x", "host:80"] {
            assert!(addresses(bad).is_err(), "{bad}");
        }
    }
}
