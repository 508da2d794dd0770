//! `moorline proxy`: the proxy from flags, for when a file would say nothing more.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, anyhow, bail};

use super::serve::{Service, serve};
use crate::{
    config::{Address, Backend, Certificate, Certificates, Config, Listener, Pool, Protocol, Tls},
    net::tls,
};

/// Arguments of `proxy`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A backend, as HOST:PORT; repeat it for each.
    #[arg(long, value_name = "ADDR", required = true)]
    pub backend: Vec<String>,
    /// Address to serve plain HTTP on. Default: 127.0.0.1:8080, unless --listen-tls is given.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address to serve HTTPS on.
    #[arg(long, value_name = "ADDR")]
    pub listen_tls: Option<SocketAddr>,
    /// Certificate chain, PEM. Without it, one for localhost is made in memory.
    #[arg(long, value_name = "FILE", requires_all = ["key", "listen_tls"])]
    pub cert: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Address to serve metrics and readiness on.
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// A flag that cannot be followed, or what kept the process from starting.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    serve(Service { load: || config(&args), file: None, greeting: None, stays: None }).await
}

/// The same `Config` that a file would give.
fn config(args: &Args) -> anyhow::Result<Config> {
    let mut listeners = Vec::new();
    let plain = args
        .listen
        .or_else(|| args.listen_tls.is_none().then(|| SocketAddr::from(([127, 0, 0, 1], 8080))));
    if let Some(address) = plain {
        listeners.push(Listener::new("http", vec![address], Protocol::Http));
    }
    if let Some(address) = args.listen_tls {
        let tls = Tls::new(Certificates::Given(vec![certificate(args)?]));
        listeners.push(Listener::new("https", vec![address], Protocol::Https(tls)));
    }
    let mut backends: Vec<Backend> = Vec::new();
    for typed in &args.backend {
        let address: Address =
            typed.parse().map_err(|wrong| anyhow!("--backend {typed}: {wrong}"))?;
        if backends.iter().any(|known| known.address == address) {
            bail!("--backend {typed}: given twice");
        }
        backends.push(Backend { name: typed.clone(), address, weight: 1 });
    }
    let mut config = Config::new(listeners, Pool::new("default", backends));
    config.admin.metrics = args.admin;
    Ok(config)
}

fn certificate(args: &Args) -> anyhow::Result<Certificate> {
    match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => {
            Certificate::from_files(cert, key).map_err(|wrong| anyhow!("--cert, --key: {wrong}"))
        }
        _ => {
            let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
            tls::self_signed(&names).context("no certificate could be made")
        }
    }
}
