//! `moorline demo`: the proxy before embedded Socket.IO nodes, with nothing to configure.
//!
//! Owns the demo's configuration and its messages. The nodes are ordinary backends to the proxy,
//! and the session cookie is off, so that everything the page shows is done by session ids alone.

mod control;

use std::{
    error::Error,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use self::control::Control;
use super::{
    flags, number,
    serve::{Service, serve},
};
use crate::{
    app::RunningProcess,
    config::{
        AccessLogConfig, Address, AdminSocket, BackendConfig, Balance, Certificate,
        CertificateSource, Config, DrainConfig, HealthConfig, HostPattern, ListenerConfig,
        ListenerProtocol, PoolConfig, ProbeConfig, Redirect, RouteConfig, TlsConfig,
    },
    demo::Nodes,
    net::{
        bind_error, listener,
        tls::{self, SelfSignedError},
    },
};

/// The nodes' names, in order; the page has a signal flag for each.
const NAMES: [&str; 8] = ["alfa", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"];
/// The pool that the chat goes through.
const POOL: &str = "demo";
/// The same nodes without affinity, for the page's switch.
const PLAIN: &str = "plain";
/// Often enough that a demo never waits for a probe.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Nobody has anything to lose in a demo: Ctrl-C ends it soon.
const DRAIN: Duration = Duration::from_secs(1);

/// Arguments of `moorline demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Address to serve the chat on over TLS, with a certificate made for this run
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443", value_parser = flags::listen)]
    pub listen_tls: SocketAddr,
    /// Address whose plain HTTP is redirected there
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = flags::listen)]
    pub listen: SocketAddr,
    /// Path of the admin API's unix socket, or `off`
    #[arg(long, value_name = "PATH", help = flags::admin_socket_help(), value_parser = flags::admin_socket)]
    pub admin_socket: Option<AdminSocket>,
    /// How many Socket.IO nodes to start, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 3, allow_negative_numbers = true, value_parser = number::within(1_u8, 8))]
    pub nodes: u8,
}

/// Why the demo could not start. The text is a sentence for the user.
#[derive(Debug)]
pub enum DemoError {
    /// An address cannot be listened on.
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The nodes did not start.
    Nodes(io::Error),
    /// No certificate could be made.
    Certificate(SelfSignedError),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, flag, source } => {
                write!(f, "{}", bind_error::explained(flag, *address, source))
            }
            Self::Nodes(error) => write!(
                f,
                "cannot start the Socket.IO nodes on the loopback: {error}; try fewer with --nodes"
            ),
            Self::Certificate(error) => write!(f, "cannot make a certificate: {error}"),
        }
    }
}

impl Error for DemoError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Listen { source, .. } | Self::Nodes(source) => Some(source),
            Self::Certificate(source) => Some(source),
        }
    }
}

/// A demo that is ready to be served: the nodes run, the proxy does not.
#[derive(Debug)]
pub struct Demo {
    /// The proxy's configuration.
    pub config: Config,
    /// The nodes that it names as backends; they stop when this is dropped.
    pub nodes: Nodes,
    /// What to tell the user once the proxy listens; several lines.
    pub greeting: String,
}

/// Runs the demo until it is told to stop.
///
/// # Errors
/// An address that is taken, with the flag that names another; nodes or a certificate that cannot be
/// made.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let demo = prepare(&args).await?;
    let Demo { config, nodes, greeting } = demo;
    let nodes = Arc::new(nodes);
    let (ordered, in_force) = (Arc::clone(&nodes), config.clone());
    let first = NAMES[0];
    let begin = move |running: &RunningProcess| {
        let (operator, remote) = (running.operator().clone(), running.remote());
        let socket = running.socket().map(PathBuf::from);
        let drain = socket.as_deref().map(|socket| control::drain_command(first, socket));
        if let Some(orders) = ordered.orders() {
            let control = Control::new(operator, remote, ordered, in_force, socket);
            tokio::spawn(control.run(orders));
        }
        match drain {
            Some(drain) => format!("{greeting}\nDrain a node and watch the page:\n  {drain}"),
            None => greeting,
        }
    };
    let service = Service {
        load: || Ok(config),
        file: None,
        greeting: Some(Box::new(begin)),
        stays: Some("the demo's nodes live in this process: it cannot be handed over to another"),
    };
    let code = serve(service).await;
    drop(nodes);
    code
}

/// Starts the nodes and makes the configuration for them.
///
/// # Errors
///
/// Where an address is taken, and where the nodes or the certificate cannot be made.
pub async fn prepare(args: &Args) -> Result<Demo, DemoError> {
    let args = settle(args)?;
    let names = &NAMES[..usize::from(args.nodes).min(NAMES.len())];
    let nodes = Nodes::start(names).await.map_err(DemoError::Nodes)?;
    let certificate = tls::self_signed(&certificate_names(args.listen_tls.ip()))
        .map_err(DemoError::Certificate)?;
    let named: Vec<_> = names.iter().copied().zip(nodes.addresses()).collect();
    Ok(Demo {
        config: config(&args, certificate, &named),
        greeting: greeting(args.listen_tls, &named),
        nodes,
    })
}

/// Real addresses for those asked for: port 0 becomes a free port.
///
/// The redirect names the port of the other listener, so both must be known before either is bound
/// for good; binding them here also tells which flag to change where one is taken.
fn settle(args: &Args) -> Result<Args, DemoError> {
    let bind = |address, flag| {
        let fault = |source| DemoError::Listen { address, flag, source };
        let socket = listener::bind_one(address).map_err(fault)?;
        let real = socket.local_addr().map_err(fault)?;
        Ok((socket, real))
    };
    // Both are held until both are known: the same port twice is a clash too.
    let (_tls, listen_tls) = bind(args.listen_tls, "--listen-tls")?;
    let (_plain, listen) = bind(args.listen, "--listen")?;
    Ok(Args { listen_tls, listen, ..args.clone() })
}

/// The demo's configuration; `args` must be settled.
fn config(args: &Args, certificate: Certificate, nodes: &[(&str, SocketAddr)]) -> Config {
    let tls = TlsConfig::new(CertificateSource::Given(vec![certificate]));
    let chat = ListenerConfig::new("chat", vec![args.listen_tls], ListenerProtocol::Https(tls));
    let mut redirect = ListenerConfig::new("redirect", vec![args.listen], ListenerProtocol::Http);
    let port = Some(args.listen_tls.port()).filter(|&port| port != 443);
    redirect.redirect = Some(Redirect::Https { port });

    let backends: Vec<_> = nodes.iter().map(|&(name, at)| backend(name, at)).collect();
    let mut pool = PoolConfig::new(POOL, backends.clone());
    pool.health =
        HealthConfig { probe: ProbeConfig::Tcp, interval: PROBE_EVERY, ..HealthConfig::default() };
    pool.sticky.cookie = None;
    pool.drain = DrainConfig { within: control::WITHIN, spread: control::SPREAD };
    let mut plain = PoolConfig { name: PLAIN.to_owned(), ..pool.clone() };
    plain.balance = Balance::RoundRobin;
    plain.sticky.engine_io = false;
    plain.sticky.owner_search = 0;
    plain.sticky.memory = Duration::ZERO;

    let mut config = Config::new(vec![chat, redirect], pool);
    config.pools.push(plain);
    config.routes.push(RouteConfig {
        host: HostPattern::Any,
        path: format!("/{PLAIN}/"),
        pool: PLAIN.to_owned(),
        listeners: Vec::new(),
        error_pages: None,
    });
    // What happens is on the page; the terminal keeps the addresses in sight.
    config.access_log = AccessLogConfig::Off;
    config.drain = DrainConfig::within(DRAIN);
    config.admin.socket = args.admin_socket.clone().unwrap_or_default();
    config
}

/// A node as the proxy sees it.
fn backend(name: &str, at: SocketAddr) -> BackendConfig {
    let address = Address { host: at.ip().to_string(), port: at.port() };
    BackendConfig { name: name.to_owned(), address, weight: 1 }
}

/// Names and addresses that the certificate is for: the loopback's, and the one listened on.
fn certificate_names(listen: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let own = listen.to_string();
    if !listen.is_unspecified() && !names.contains(&own) {
        names.push(own);
    }
    names
}

/// What the terminal shows once the chat is up.
fn greeting(listen_tls: SocketAddr, nodes: &[(&str, SocketAddr)]) -> String {
    let mut open = listen_tls;
    if open.ip().is_unspecified() {
        open.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let nodes: String = nodes.iter().map(|(name, at)| format!("node {name} on {at}\n")).collect();
    format!(
        "{nodes}\n\
         Open https://{open}/ and accept the certificate, which was made for this run.\n\
         Open a second user from the page: the two users are on different nodes and see each other's messages.\n\
         Drain, kill or replace a node, reload, or switch affinity off, and watch what happens to the sessions."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(listen_tls: SocketAddr, listen: SocketAddr) -> Args {
        Args { listen_tls, listen, nodes: 3, admin_socket: None }
    }

    fn any() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[tokio::test]
    async fn free_ports_become_real_ones_and_the_redirect_names_the_right_one() {
        let demo = prepare(&args(any(), any())).await.unwrap();
        let [chat, redirect] = &demo.config.listeners[..] else { panic!("two listeners") };
        assert!(matches!(chat.protocol, ListenerProtocol::Https(_)));
        let port = chat.bind[0].port();
        assert_ne!(port, 0);
        assert_ne!(redirect.bind[0].port(), 0);
        assert_eq!(redirect.redirect, Some(Redirect::Https { port: Some(port) }));
        assert!(demo.greeting.contains(&format!("https://127.0.0.1:{port}/")));
    }

    #[tokio::test]
    async fn the_backends_are_the_nodes() {
        let demo = prepare(&args(any(), any())).await.unwrap();
        let backends = &demo.config.pools[0].backends;
        let names: Vec<_> = backends.iter().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["alfa", "bravo", "charlie"]);
        let addresses: Vec<_> = backends.iter().filter_map(|b| b.address.literal()).collect();
        assert_eq!(addresses, demo.nodes.addresses());
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_the_flag_that_changes_it() {
        let taken = listener::bind_one(any()).unwrap();
        let address = taken.local_addr().unwrap();
        for (args, flag) in
            [(args(address, any()), "--listen-tls"), (args(any(), address), "--listen")]
        {
            let fault = prepare(&args).await.unwrap_err().to_string();
            let wanted = format!("{flag}: cannot listen on {address}: process ");
            assert!(fault.starts_with(&wanted), "{fault}");
        }
    }

    #[tokio::test]
    async fn the_same_address_twice_is_a_clash() {
        let free = listener::bind_one(any()).unwrap().local_addr().unwrap();
        let fault = prepare(&args(free, free)).await.unwrap_err().to_string();
        assert!(fault.starts_with("--listen: "), "{fault}");
    }

    #[test]
    fn an_unspecified_address_is_opened_on_the_loopback() {
        let text = greeting("0.0.0.0:8443".parse().unwrap(), &[]);
        assert!(text.contains("https://127.0.0.1:8443/"));
        assert_eq!(certificate_names("0.0.0.0".parse().unwrap()).len(), 3);
        assert_eq!(certificate_names("192.0.2.7".parse().unwrap())[3], "192.0.2.7");
    }
}
