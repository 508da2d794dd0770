//! The starting configuration, with common settings as comments.

/// Options of the starting configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TemplateOptions {
    /// TLS of the listeners.
    pub(super) tls: TemplateTls,
    /// For a container: service names, ports above 1024, metrics for other containers.
    pub(super) docker: bool,
}

/// TLS of the listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum TemplateTls {
    /// No TLS.
    #[default]
    Off,
    /// TLS with certificate files.
    Files,
    /// TLS with an ACME certificate for these names.
    Acme(Vec<String>),
}

/// Certificate file in the folder of the configuration.
pub(super) const CERT_FILE: &str = "site.pem";

/// File of the private key.
pub(super) const KEY_FILE: &str = "site.key";

/// Returns the text of a starting configuration.
pub(super) fn template(options: &TemplateOptions) -> String {
    let mut text = HEAD.to_owned();
    text.push_str(match options.docker {
        true => DOCKER_TOP,
        false => TOP,
    });
    text.push_str(&listeners(options));
    text.push_str(ROUTES);
    text.push_str(match options.docker {
        true => DOCKER_BACKENDS,
        false => BACKENDS,
    });
    text.push_str(POOL);
    text
}

fn listeners(options: &TemplateOptions) -> String {
    let acme = matches!(options.tls, TemplateTls::Acme(_));
    // An ACME server connects to the ports 80 and 443. A container publishes other ports as these.
    let (http, https) = match acme && !options.docker {
        true => (80, 443),
        false => (8080, 8443),
    };
    let published = match options.docker {
        true => ", published as 80:8080 and 443:8443",
        false => "",
    };
    if options.tls == TemplateTls::Off {
        return format!(
            "\n# Address for clients.\n[listeners.web]\nbind = \"0.0.0.0:{http}\"\n{LISTENER_OPTIONS}"
        );
    }
    let port = if https == 443 || options.docker { String::new() } else { format!(":{https}") };
    let certificates = match &options.tls {
        TemplateTls::Acme(domains) => {
            let domains: Vec<String> =
                domains.iter().map(|domain| super::draft::quoted(domain)).collect();
            ACME.replace("DOMAINS", &domains.join(", "))
        }
        _ => FILES.to_owned(),
    };
    format!(
        "\n# Plain HTTP: redirects to HTTPS{published}.\n\
         [listeners.web]\nbind = \"0.0.0.0:{http}\"\nredirect = \"https{port}\"\n\
         \n# HTTPS.\n[listeners.secure]\nbind = \"0.0.0.0:{https}\"\nprotocol = \"https\"\n\
         {certificates}{LISTENER_OPTIONS}"
    )
}

const HEAD: &str = "\
# Moorline configuration.
#
# moorline check FILE     shows every error and warning, with its line
# moorline run FILE       starts the proxy; edits of the file are then applied without dropping connections
#
# A `#` in front of a setting: the value is the default or an example.
";

const TOP: &str = "
# Metrics, and the health of the proxy: /metrics, /live, /ready.
admin = \"127.0.0.1:9090\"
# One JSON line for each request and tunnel; \"stdout\" is the default.
# access_log = { file = \"access.log\" }
# Proxies and balancers in front, whose X-Forwarded-For is trusted.
# trusted_proxies = [\"10.0.0.0/8\"]
# How long a stopping process waits for open connections.
# drain = \"30s\"
";

const DOCKER_TOP: &str = "
# Metrics, and the health of the proxy: /metrics, /live, /ready. Do not publish this port.
admin = \"0.0.0.0:9090\"
# One JSON line for each request and tunnel. Docker collects standard output.
access_log = \"stdout\"
# Proxies and balancers in front, whose X-Forwarded-For is trusted.
# trusted_proxies = [\"private\"]
# How long a stopping process waits for open connections: docker kills it after 10 s, unless
# `stop_grace_period` is longer.
drain = \"8s\"
";

const LISTENER_OPTIONS: &str = "\
# Connections that one client address may have open at once.
# connections_per_address = 200
# How long an idle connection is kept; longer than the idle timeout of a balancer in front.
# keep_alive = \"75s\"
";

const FILES: &str = "\
# A self-signed certificate is for tests only. New files are loaded as soon as they are written.
certificates = [{ cert = \"site.pem\", key = \"site.key\" }]
";

const ACME: &str = "\
# The certificate is ordered and renewed automatically. By naming the server you accept its terms of service.
# For tests, use https://acme-staging-v02.api.letsencrypt.org/directory, which has generous rate limits.
certificates = { acme = { directory = \"https://acme-v02.api.letsencrypt.org/directory\", domains = [DOMAINS], storage = \"acme\" } }
";

const ROUTES: &str = "
# Requests to pools. Exact hosts come before wildcards, longer paths before shorter ones.
[[routes]]
# host = \"chat.example.com\"
path = \"/\"
pool = \"app\"

[pools.app]
";

const BACKENDS: &str = "\
# The nodes of your app. Backends can also come from a file, from DNS or from a URL:
#   { file = \"backends.txt\" }, { dns = \"app.internal:3000\" }, { http = \"http://…\" }
backends = [\"127.0.0.1:3000\", \"127.0.0.1:3001\"]
";

const DOCKER_BACKENDS: &str = "\
# The containers of the service `app`: each address of the name is a backend, and the name is resolved
# regularly (`docker compose up --scale app=3`).
backends = { dns = \"app:3000\" }
";

const POOL: &str = "\
# Socket.IO sessions stay on their node by default. New sessions:
# balance = \"least-sessions\"
# \"engine.io\" opens a Socket.IO session on each node; \"http\" needs a `path`; \"tcp\" connects.
health = { probe = \"tcp\", interval = \"2s\" }
# Eject a backend for some time if it fails under traffic.
# outlier = true
# How long a removed or drained backend keeps its sessions.
# drain = \"5m\"
# timeouts = { connect = \"2s\", response_header = \"60s\" }
";
