//! `moorline demo`: the proxy with embedded Socket.IO nodes, without a configuration file.
//!
//! The nodes are ordinary backends of the proxy. The affinity cookie is off, so that affinity uses
//! session ids only.

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

use self::control::DemoControl;
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
    runtimes::Workers,
};

/// Names of the nodes, in order; the page has a signal flag for each.
const NAMES: [&str; 8] = ["alfa", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"];
/// Pool of the chat.
const POOL: &str = "demo";
/// Pool of the same nodes without affinity, for the switch of the page.
const PLAIN: &str = "plain";
/// Interval of health checks; short, so that the page quickly shows that a node is down.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Deadline of the shutdown; short, so that Ctrl-C ends the demo quickly.
const DRAIN: Duration = Duration::from_secs(1);

/// Arguments of `moorline demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Address to serve the chat on over TLS, with a certificate that is created for this run
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443", value_parser = flags::listen)]
    pub listen_tls: SocketAddr,
    /// Address of plain HTTP, which is redirected to --listen-tls
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = flags::listen)]
    pub listen: SocketAddr,
    /// Path of the admin API's unix socket, or `off`
    #[arg(long, value_name = "PATH", help = flags::admin_socket_help(), value_parser = flags::admin_socket)]
    pub admin_socket: Option<AdminSocket>,
    /// Number of Socket.IO nodes to start, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 3, allow_negative_numbers = true, value_parser = number::within(1_u8, 8))]
    pub nodes: u8,
}

/// Why the demo cannot start.
#[derive(Debug)]
pub enum DemoError {
    /// Cannot listen on an address.
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The nodes cannot start.
    Nodes(io::Error),
    /// The certificate cannot be created.
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
            Self::Certificate(error) => write!(f, "cannot create a certificate: {error}"),
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

/// A prepared demo: the nodes run, the proxy does not run yet.
#[derive(Debug)]
pub struct Demo {
    /// The proxy's configuration.
    pub config: Config,
    /// The nodes, which are the backends; they stop when this value is dropped.
    pub nodes: Nodes,
    /// Text that is printed when the proxy listens; several lines.
    pub greeting: String,
}

/// Runs the demo until a signal stops the process.
///
/// # Errors
/// An address is in use, or nodes or certificate cannot be created. The text names the flag to change.
pub async fn run(args: Args, workers: Workers) -> anyhow::Result<ExitCode> {
    let demo = prepare(&args).await?;
    let Demo { config, nodes, greeting } = demo;
    let nodes = Arc::new(nodes);
    let (controlled, current) = (Arc::clone(&nodes), config.clone());
    let first = NAMES[0];
    let begin = move |running: &RunningProcess| {
        let (control_handle, remote) = (running.operator().clone(), running.remote());
        let socket = running.socket().map(PathBuf::from);
        let drain = socket.as_deref().map(|socket| control::drain_command(first, socket));
        if let Some(requests) = controlled.requests() {
            let actions = DemoControl::new(control_handle, remote, controlled, current, socket);
            tokio::spawn(actions.run(requests));
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
        stays: Some("the demo cannot be upgraded, because its nodes run in the same process"),
        workers,
    };
    let code = serve(service).await;
    drop(nodes);
    code
}

/// Starts the nodes and creates the configuration.
///
/// # Errors
///
/// An address is in use, or the nodes or the certificate cannot be created.
pub async fn prepare(args: &Args) -> Result<Demo, DemoError> {
    let args = with_real_ports(args)?;
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

/// Replaces port 0 by a free port.
///
/// The redirect needs the port of the TLS listener before the proxy binds it. Binding both addresses here
/// also shows which flag to change if an address is in use.
fn with_real_ports(args: &Args) -> Result<Args, DemoError> {
    let bind = |address, flag| {
        let error = |source| DemoError::Listen { address, flag, source };
        let socket = listener::bind_one(address).map_err(error)?;
        let real = socket.local_addr().map_err(error)?;
        Ok((socket, real))
    };
    // Both sockets stay bound until the end, so that a port that is used twice is an error.
    let (_tls, listen_tls) = bind(args.listen_tls, "--listen-tls")?;
    let (_plain, listen) = bind(args.listen, "--listen")?;
    Ok(Args { listen_tls, listen, ..args.clone() })
}

/// Creates the demo's configuration; `args` must have real ports.
fn config(args: &Args, certificate: Certificate, nodes: &[(&str, SocketAddr)]) -> Config {
    let tls = TlsConfig::new(CertificateSource::Configured(vec![certificate]));
    let chat = ListenerConfig::new("chat", vec![args.listen_tls], ListenerProtocol::Https(tls));
    let mut redirect = ListenerConfig::new("redirect", vec![args.listen], ListenerProtocol::Http);
    let port = Some(args.listen_tls.port()).filter(|&port| port != 443);
    redirect.redirect = Some(Redirect::Https { port });

    let backends: Vec<_> = nodes.iter().map(|&(name, at)| backend(name, at)).collect();
    let mut pool = PoolConfig::new(POOL, backends.clone());
    pool.health = HealthConfig {
        probe: ProbeConfig::Tcp,
        interval: PROBE_INTERVAL,
        ..HealthConfig::default()
    };
    pool.sticky.cookie = None;
    pool.drain = DrainConfig { within: control::WITHIN, spread: control::SPREAD };
    let mut plain = PoolConfig { name: PLAIN.to_owned(), ..pool.clone() };
    plain.balance = Balance::RoundRobin;
    plain.sticky.engine_io = false;
    plain.sticky.owner_search = 0;
    plain.sticky.memory = Duration::ZERO;

    let mut config = Config::new(vec![chat, redirect], pool);
    config.pools.push(plain);
    config.routes.push(RouteConfig::to_pool(HostPattern::Any, format!("/{PLAIN}/"), PLAIN));
    // The page shows the requests; access-log lines would hide the addresses on the terminal.
    config.access_log = AccessLogConfig::Off;
    config.drain = DrainConfig::within(DRAIN);
    config.admin.socket = args.admin_socket.clone().unwrap_or_default();
    config
}

/// Returns a node as a backend.
fn backend(name: &str, at: SocketAddr) -> BackendConfig {
    let address = Address { host: at.ip().to_string(), port: at.port() };
    BackendConfig { name: name.to_owned(), address, weight: 1, backup: false }
}

/// Names and addresses of the certificate: the loopback's and the listening address.
fn certificate_names(listen: IpAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let own = listen.to_string();
    if !listen.is_unspecified() && !names.contains(&own) {
        names.push(own);
    }
    names
}

/// Returns the text that is printed when the proxy listens.
fn greeting(listen_tls: SocketAddr, nodes: &[(&str, SocketAddr)]) -> String {
    let mut open = listen_tls;
    if open.ip().is_unspecified() {
        open.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let nodes: String = nodes.iter().map(|(name, at)| format!("node {name} on {at}\n")).collect();
    format!(
        "{nodes}\n\
         Open https://{open}/ and accept the certificate, which was created for this run.\n\
         Open a second user from the page: the two users are on different nodes and see each other's messages.\n\
         Drain, kill or replace a node, reload, or switch affinity off, and watch the sessions."
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
    async fn port_0_becomes_a_free_port_and_the_redirect_uses_it() {
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
    async fn an_address_in_use_is_reported_with_its_flag() {
        let taken = listener::bind_one(any()).unwrap();
        let address = taken.local_addr().unwrap();
        for (args, flag) in
            [(args(address, any()), "--listen-tls"), (args(any(), address), "--listen")]
        {
            let error = prepare(&args).await.unwrap_err().to_string();
            let expected = format!("{flag}: cannot listen on {address}: process ");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[tokio::test]
    async fn the_same_address_for_both_listeners_is_an_error() {
        let free = listener::bind_one(any()).unwrap().local_addr().unwrap();
        let error = prepare(&args(free, free)).await.unwrap_err().to_string();
        assert!(error.starts_with("--listen: "), "{error}");
    }

    #[test]
    fn an_unspecified_address_is_opened_on_the_loopback() {
        let text = greeting("0.0.0.0:8443".parse().unwrap(), &[]);
        assert!(text.contains("https://127.0.0.1:8443/"));
        assert_eq!(certificate_names("0.0.0.0".parse().unwrap()).len(), 3);
        assert_eq!(certificate_names("192.0.2.7".parse().unwrap())[3], "192.0.2.7");
    }
}
