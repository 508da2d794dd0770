//! `moorline proxy`: runs the proxy with a configuration from flags.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, anyhow, bail};

use super::{
    flags,
    serve::{Service, serve},
};
use crate::{
    config::{
        Address, AdminSocket, BackendConfig, Certificate, CertificateSource, Config,
        ListenerConfig, ListenerProtocol, PoolConfig, TlsConfig,
    },
    net::tls,
    runtimes::Workers,
};

/// Arguments of `proxy`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  moorline proxy --backend 127.0.0.1:3001 --backend 127.0.0.1:3002
  moorline proxy --backend 127.0.0.1:3001,127.0.0.1:3002 --listen 0.0.0.0:8080 --metrics 127.0.0.1:9090
  moorline proxy --backend node-1:3000 --listen-tls 0.0.0.0:8443 --cert site.pem --key site.key")]
pub struct Args {
    /// A backend, as HOST:PORT; repeat the flag, or separate several by commas
    #[arg(long, value_name = "ADDR", required = true, value_delimiter = ',', value_parser = flags::backend)]
    pub backend: Vec<(String, Address)>,
    /// Address to serve plain HTTP on [default: 127.0.0.1:8080, unless --listen-tls is given]
    #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = flags::listen)]
    pub listen: Vec<SocketAddr>,
    /// Address to serve HTTPS on
    #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = flags::listen)]
    pub listen_tls: Vec<SocketAddr>,
    /// Certificate chain, PEM; without it, a self-signed certificate for localhost is created in memory
    #[arg(long, value_name = "FILE", requires_all = ["key", "listen_tls"])]
    pub cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Address to serve /metrics, /live and /ready on
    #[arg(long, value_name = "ADDR", value_parser = flags::listen)]
    pub metrics: Option<SocketAddr>,
    /// Path of the admin API's unix socket, or `off`
    #[arg(long, value_name = "PATH", help = flags::admin_socket_help(), value_parser = flags::admin_socket)]
    pub admin_socket: Option<AdminSocket>,
}

/// Runs until a signal stops the process.
///
/// # Errors
/// A flag is invalid, or the process cannot start.
pub async fn run(args: Args, workers: Workers) -> anyhow::Result<ExitCode> {
    serve(Service { load: || config(&args), file: None, greeting: None, stays: None, workers })
        .await
}

/// Builds the configuration.
fn config(args: &Args) -> anyhow::Result<Config> {
    let mut listeners = Vec::new();
    let mut plain = args.listen.clone();
    if plain.is_empty() && args.listen_tls.is_empty() {
        plain.push(SocketAddr::from(([127, 0, 0, 1], 8080)));
    }
    if !plain.is_empty() {
        listeners.push(ListenerConfig::new("http", plain, ListenerProtocol::Http));
    }
    if !args.listen_tls.is_empty() {
        let tls = TlsConfig::new(CertificateSource::Configured(vec![certificate(args)?]));
        listeners.push(ListenerConfig::new(
            "https",
            args.listen_tls.clone(),
            ListenerProtocol::Https(tls),
        ));
    }
    let mut backends: Vec<BackendConfig> = Vec::new();
    for (typed, address) in &args.backend {
        if backends.iter().any(|backend| backend.address == *address) {
            bail!("--backend {typed} is given twice: remove one of the two");
        }
        if let Some(own) = listeners.iter().find(|own| own.is_at(address)) {
            bail!(
                "--backend {typed}: the {} listener of this proxy listens there; write the address of the \
                 application",
                own.name
            );
        }
        backends.push(BackendConfig {
            name: typed.clone(),
            address: address.clone(),
            weight: 1,
            backup: false,
        });
    }
    let mut config = Config::new(listeners, PoolConfig::new("default", backends));
    config.admin.metrics = args.metrics;
    config.admin.socket = args.admin_socket.clone().unwrap_or_default();
    Ok(config)
}

fn certificate(args: &Args) -> anyhow::Result<Certificate> {
    match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            Certificate::from_files(cert, key).map_err(|error| anyhow!("--cert, --key: {error}"))
        }
        _ => {
            let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
            tls::self_signed(&names)
                .context("cannot create a certificate in memory; use --cert and --key")
        }
    }
}
