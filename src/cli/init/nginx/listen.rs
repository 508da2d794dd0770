//! `listen` directives: listeners and their servers.

mod tls;

use super::{
    super::{
        draft::{self, ListenerDraft, array, free_name},
        note::NoteKind,
    },
    NginxTranslator, Scope,
    server::{RealIp, ServerBlock},
    syntax::Directive,
    values::{self, ListenAddress},
};

/// Addresses and the servers that listen on them.
struct ListenGroup<'t> {
    /// Addresses with ports.
    bind: Vec<String>,
    port: u16,
    tls: bool,
    proxy_protocol: bool,
    /// Indices of servers; the default server first.
    servers: Vec<usize>,
    /// The directives.
    directives: Vec<&'t Directive>,
}

impl<'t> NginxTranslator<'t> {
    /// Creates the listeners. Returns the names of the listeners of each server.
    pub(super) fn listeners(
        &mut self,
        scope: &Scope<'_, 't>,
        servers: &[ServerBlock<'t>],
        trust: &RealIp,
    ) -> Vec<Vec<String>> {
        let mut served = vec![Vec::new(); servers.len()];
        for group in merged(self.addresses(servers)) {
            let of_group: Vec<&ServerBlock<'t>> =
                group.servers.iter().map(|at| &servers[*at]).collect();
            let Some(listener) = self.listener(scope, &group, &of_group, trust) else { continue };
            if listener.settings.value("redirect").is_none() {
                for at in &group.servers {
                    served[*at].push(listener.name.clone());
                }
            }
            self.draft.listeners.push(listener);
        }
        served
    }

    /// Returns each address that a server listens on, once.
    fn addresses(&mut self, servers: &[ServerBlock<'t>]) -> Vec<ListenGroup<'t>> {
        let mut groups: Vec<ListenGroup<'t>> = Vec::new();
        for (at, server) in servers.iter().enumerate() {
            let scope = Scope::top(server.directive.children());
            let old_ssl =
                scope.own("ssl").find(|ssl| ssl.arg(0) == "on").map(Directive::take).is_some();
            let listens: Vec<&Directive> = scope.own("listen").collect();
            if listens.is_empty() {
                self.note(
                    NoteKind::Different,
                    server.directive,
                    "without `listen`, the port is 80 as in nginx",
                );
                add(&mut groups, "0.0.0.0".to_owned(), 80, at, server.directive);
            }
            for listen in listens {
                match values::listen(listen.arg(0)) {
                    ListenAddress::Ip { host, port } => {
                        listen.take();
                        if host == "[::]" && listen.args.iter().any(|word| word == "ipv6only=off") {
                            add(&mut groups, "0.0.0.0".to_owned(), port, at, listen);
                        }
                        let host = self.covered(&groups, host, port, listen);
                        let group = add(&mut groups, host, port, at, listen);
                        self.parameters(group, at, listen, old_ssl);
                    }
                    ListenAddress::Unix => {
                        self.note(
                            NoteKind::Untranslated,
                            listen,
                            "listeners have IP addresses; unix sockets are not supported",
                        );
                    }
                    ListenAddress::Other => {
                        self.note(
                            NoteKind::Untranslated,
                            listen,
                            "write the IP address: `bind` takes no names",
                        );
                    }
                }
            }
        }
        groups
    }

    /// Returns the host of an address, or the wildcard address that already has its port.
    fn covered(
        &mut self,
        groups: &[ListenGroup<'t>],
        host: String,
        port: u16,
        listen: &Directive,
    ) -> String {
        let wildcard = if host.starts_with('[') { "[::]" } else { "0.0.0.0" };
        let known =
            |host: &str| groups.iter().any(|group| group.bind == [format!("{host}:{port}")]);
        if host != wildcard && known(wildcard) {
            let reason =
                format!("`{wildcard}:{port}` is a listener already and takes these connections");
            self.note(NoteKind::Different, listen, reason);
            return wildcard.to_owned();
        }
        host
    }

    /// The words after an address.
    fn parameters(
        &mut self,
        group: &mut ListenGroup<'t>,
        at: usize,
        listen: &Directive,
        old_ssl: bool,
    ) {
        group.tls |= old_ssl;
        for word in listen.args.iter().skip(1) {
            match word.split('=').next().unwrap_or(word) {
                "ssl" => group.tls = true,
                "proxy_protocol" => group.proxy_protocol = true,
                "default_server" | "default" => {
                    group.servers.retain(|server| *server != at);
                    group.servers.insert(0, at);
                }
                "http2" | "spdy" | "quic" => {
                    let reason = format!(
                        "`{word}`: clients are served HTTP/1.1, in which WebSockets and polls work"
                    );
                    self.note(NoteKind::Untranslated, listen, reason);
                }
                "ipv6only" => {}
                _ => {
                    let reason = format!("`{word}`: sockets are tuned without settings");
                    self.note(NoteKind::Unneeded, listen, reason);
                }
            }
        }
    }

    /// The listener of a group; `None` if it would neither route nor redirect.
    fn listener(
        &mut self,
        scope: &Scope<'_, 't>,
        group: &ListenGroup<'t>,
        servers: &[&ServerBlock<'t>],
        trust: &RealIp,
    ) -> Option<ListenerDraft> {
        let redirects = !group.tls && servers.iter().all(|server| server.redirect.is_some());
        if !redirects && !servers.iter().any(|server| server.proxies || server.answers) {
            for listen in &group.directives {
                self.note(
                    NoteKind::Untranslated,
                    listen,
                    "no server of this address answers requests",
                );
            }
            return None;
        }
        let protocol = if group.tls { "https" } else { "http" };
        let wanted = match group.port {
            80 | 443 => protocol.to_owned(),
            port => format!("{protocol}-{port}"),
        };
        let taken = |name: &str| self.draft.listeners.iter().any(|known| known.name == name);
        let mut listener = ListenerDraft {
            name: free_name(&wanted, taken),
            origin: group.directives[0].origin.to_string(),
            bind: group.bind.clone(),
            protocol,
            ..ListenerDraft::default()
        };
        if redirects {
            self.redirect(&mut listener, servers);
        }
        if group.proxy_protocol {
            self.proxy_protocol(&mut listener, group, trust);
        }
        self.limits(&mut listener, scope, servers);
        if group.tls {
            self.tls(&mut listener, scope, servers, group);
        }
        Some(listener)
    }

    /// Redirects the whole listener to https.
    fn redirect(&mut self, listener: &mut ListenerDraft, servers: &[&ServerBlock<'t>]) {
        let redirects =
            servers.iter().filter_map(|server| Some((server, server.redirect.as_ref()?)));
        for (server, redirect) in redirects {
            server.directive.take();
            for other in &redirect.others {
                other.take();
                if other.name == "return" {
                    self.note(NoteKind::Different, other, "the listener redirects every request");
                }
            }
            let value = redirect.port.map_or("https".to_owned(), |port| format!("https:{port}"));
            listener.settings.string("redirect", &value);
            let mut reason = "the redirect has status 308, which keeps the method".to_owned();
            let own = redirect
                .host
                .as_ref()
                .is_none_or(|host| server.hosts.contains(&Some(host.clone())));
            if !own {
                reason.push_str("; it keeps the host of the request");
            }
            if redirect.conditional {
                reason.push_str("; it is for every host");
            }
            self.note(NoteKind::Different, redirect.directive, reason);
        }
    }

    fn proxy_protocol(
        &mut self,
        listener: &mut ListenerDraft,
        group: &ListenGroup<'t>,
        trust: &RealIp,
    ) {
        let from = if trust.networks.is_empty() {
            let reason = "nginx takes a PROXY header from every address; here only private addresses may send one: \
                          see `from`";
            self.note(NoteKind::Different, group.directives[0], reason);
            vec!["private".to_owned()]
        } else {
            trust.networks.clone()
        };
        let value = format!("{{ mode = \"required\", from = {} }}", array(&from));
        listener.settings.set("proxy_protocol", value);
    }

    /// Timeouts and limits of requests' headers.
    fn limits(
        &mut self,
        listener: &mut ListenerDraft,
        scope: &Scope<'_, 't>,
        servers: &[&ServerBlock<'t>],
    ) {
        for (name, key) in
            [("keepalive_timeout", "keep_alive"), ("client_header_timeout", "header_timeout")]
        {
            let Some(directive) = self.agreed(scope, servers, name) else { continue };
            match values::time(directive.arg(0)) {
                Some(time) if !time.is_zero() => listener.settings.set(key, draft::duration(time)),
                _ => self.note(
                    NoteKind::Untranslated,
                    directive,
                    format!("`{key}` is a duration above zero"),
                ),
            }
        }
        if let Some(directive) = self.agreed(scope, servers, "large_client_header_buffers") {
            let number = directive.arg(0).parse::<u64>().ok();
            match number
                .zip(values::size(directive.arg(1)))
                .and_then(|(n, size)| n.checked_mul(size))
            {
                Some(bytes) => listener.settings.set("header_size", draft::header_size(bytes)),
                None => self.note(
                    NoteKind::Untranslated,
                    directive,
                    "`header_size` is a number of bytes",
                ),
            }
        }
        self.connections(listener, scope, servers);
    }

    /// `limit_conn` by the client's address.
    fn connections(
        &mut self,
        listener: &mut ListenerDraft,
        scope: &Scope<'_, 't>,
        servers: &[&ServerBlock<'t>],
    ) {
        let zones = |zone: &str| {
            scope.own("limit_conn_zone").find(|known| {
                let by_address = matches!(known.arg(0), "$binary_remote_addr" | "$remote_addr");
                by_address
                    && known
                        .arg(1)
                        .strip_prefix("zone=")
                        .is_some_and(|rest| rest.split(':').next() == Some(zone))
            })
        };
        for server in servers {
            let inner = scope.inner(server.directive.children());
            let limits = inner.own("limit_conn").chain(scope.own("limit_conn"));
            for limit in limits {
                let Some(zone) = zones(limit.arg(0)) else { continue };
                zone.take();
                if limit.arg(1).parse::<u32>().is_ok_and(|most| most > 0) {
                    listener.settings.set("connections_per_address", limit.arg(1));
                    let reason =
                        "connections are counted, idle ones too; nginx counts requests in progress";
                    self.note(NoteKind::Different, limit, reason);
                }
            }
        }
    }

    /// The value that servers of a listener have in common. Other values are noted.
    pub(super) fn agreed(
        &mut self,
        scope: &Scope<'_, 't>,
        servers: &[&ServerBlock<'t>],
        name: &'static str,
    ) -> Option<&'t Directive> {
        let found: Vec<&Directive> = servers
            .iter()
            .filter_map(|server| scope.inner(server.directive.children()).find(name))
            .collect();
        let first = *found.first()?;
        for other in found.iter().filter(|other| other.args != first.args) {
            let reason = format!(
                "servers of one listener share this: the value of {} is used",
                first.origin
            );
            self.note(NoteKind::Different, other, reason);
        }
        Some(first)
    }
}

/// Adds a server to the group of an address.
fn add<'g, 't>(
    groups: &'g mut Vec<ListenGroup<'t>>,
    host: String,
    port: u16,
    server: usize,
    directive: &'t Directive,
) -> &'g mut ListenGroup<'t> {
    let bind = vec![format!("{host}:{port}")];
    let at = groups.iter().position(|group| group.bind == bind).unwrap_or_else(|| {
        let (servers, directives) = (Vec::new(), Vec::new());
        groups.push(ListenGroup {
            bind,
            port,
            tls: false,
            proxy_protocol: false,
            servers,
            directives,
        });
        groups.len() - 1
    });
    let group = &mut groups[at];
    if !group.servers.contains(&server) {
        group.servers.push(server);
    }
    group.directives.push(directive);
    group
}

/// Merges addresses with equal servers and settings.
fn merged(groups: Vec<ListenGroup<'_>>) -> Vec<ListenGroup<'_>> {
    let mut merged: Vec<ListenGroup<'_>> = Vec::new();
    for group in groups {
        let alike = |known: &&mut ListenGroup<'_>| {
            known.tls == group.tls
                && known.proxy_protocol == group.proxy_protocol
                && known.servers == group.servers
                && known.port == group.port
        };
        match merged.iter_mut().find(alike) {
            Some(known) => {
                known.bind.extend(group.bind);
                known.directives.extend(group.directives);
            }
            None => merged.push(group),
        }
    }
    merged
}
