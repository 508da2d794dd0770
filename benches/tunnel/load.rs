//! The loads and what is read from the proxy's process under each.

use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::{
    proxies::Proxy,
    traffic::{self, BLOCK, MESSAGE, Tunnel, Wish},
};

/// Tunnels of the bulk load.
const FLOWS: usize = 4;
/// Sockets of the echo load.
const SOCKETS: usize = 100;
/// Tunnels that are opened at the same time.
const OPENING: usize = 64;
/// Longest wait for a process to come to rest.
const REST: Duration = Duration::from_secs(3);

/// How much of each load.
pub(crate) struct Size {
    pub(crate) rounds: usize,
    /// Idle tunnels at the first look, and at the second.
    idle: [usize; 2],
    /// MiB through each bulk tunnel.
    bulk: usize,
    /// Messages on each echo socket.
    echo: usize,
}

/// What the tunnels do.
#[derive(Clone, Copy)]
enum What {
    Idle,
    Bulk,
    Echo,
}

/// One load.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    what: What,
    tls: bool,
}

impl Size {
    pub(crate) const FULL: Self = Self { rounds: 3, idle: [2000, 4000], bulk: 512, echo: 1000 };
    pub(crate) const QUICK: Self = Self { rounds: 1, idle: [500, 1000], bulk: 256, echo: 400 };
}

impl Load {
    pub(crate) const ALL: [Self; 6] = [
        Self { what: What::Idle, tls: false },
        Self { what: What::Idle, tls: true },
        Self { what: What::Bulk, tls: false },
        Self { what: What::Bulk, tls: true },
        Self { what: What::Echo, tls: false },
        Self { what: What::Echo, tls: true },
    ];

    pub(crate) fn name(self) -> &'static str {
        match (self.what, self.tls) {
            (What::Idle, false) => "idle plain",
            (What::Idle, true) => "idle tls",
            (What::Bulk, false) => "bulk plain",
            (What::Bulk, true) => "bulk tls",
            (What::Echo, false) => "echo plain",
            (What::Echo, true) => "echo tls",
        }
    }

    /// Titles of what [`Self::measure`] brings.
    pub(crate) fn rows(self, size: &Size) -> Vec<String> {
        let name = self.name();
        match self.what {
            What::Idle => {
                let [few, many] = size.idle;
                vec![
                    format!("{name}: KiB each, first {few}"),
                    format!("{name}: KiB each, next {}", many - few),
                ]
            }
            What::Bulk => vec![format!("{name}: CPU s per GiB")],
            What::Echo => vec![format!("{name}: CPU µs per echo")],
        }
    }

    pub(crate) async fn measure(self, size: &Size, proxy: &Proxy) -> anyhow::Result<Vec<f64>> {
        let client = traffic::Client::new(proxy, self.tls)?;
        // What is made once, at the first connection, belongs to none.
        client.open(Wish::Echo).await?.echo(1).await?;
        match self.what {
            What::Idle => idle(size, proxy, &client).await,
            What::Bulk => bulk(size, proxy, &client).await.map(|value| vec![value]),
            What::Echo => echo(size, proxy, &client).await.map(|value| vec![value]),
        }
    }
}

/// KiB of memory for each of the first tunnels, and for each of the next.
async fn idle(size: &Size, proxy: &Proxy, client: &traffic::Client) -> anyhow::Result<Vec<f64>> {
    let mut tunnels = Vec::new();
    let mut before = at_rest(proxy).await?;
    let mut each = Vec::new();
    for target in size.idle {
        let more = target - tunnels.len();
        tunnels.extend(open(client, more, Wish::Echo).await?);
        let now = at_rest(proxy).await?;
        each.push((now as f64 - before as f64) / more as f64);
        before = now;
    }
    Ok(each)
}

/// CPU seconds for each GiB from the origin to the clients.
async fn bulk(size: &Size, proxy: &Proxy, client: &traffic::Client) -> anyhow::Result<f64> {
    let tunnels = open(client, FLOWS, Wish::Blocks).await?;
    let blocks = size.bulk * 1024 * 1024 / BLOCK;
    let spent = while_all(proxy, tunnels, move |tunnel| tunnel.blocks(blocks)).await?;
    Ok(spent.as_secs_f64() * 1024.0 / (FLOWS * size.bulk) as f64)
}

/// CPU microseconds for each message there and back, [`MESSAGE`] bytes long.
async fn echo(size: &Size, proxy: &Proxy, client: &traffic::Client) -> anyhow::Result<f64> {
    const { assert!(MESSAGE == 64) };
    let tunnels = open(client, SOCKETS, Wish::Echo).await?;
    let messages = size.echo;
    let spent = while_all(proxy, tunnels, move |tunnel| tunnel.echo(messages)).await?;
    Ok(spent.as_secs_f64() * 1e6 / (SOCKETS * messages) as f64)
}

/// CPU time of the proxy while `work` goes on in all tunnels at once.
async fn while_all<F>(
    proxy: &Proxy,
    tunnels: Vec<Tunnel>,
    work: impl Fn(Tunnel) -> F,
) -> anyhow::Result<Duration>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let before = proxy.cpu()?;
    let mut running = JoinSet::new();
    for tunnel in tunnels {
        running.spawn(work(tunnel));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(proxy.cpu()?.saturating_sub(before))
}

/// Opens `count` tunnels, some at a time, as clients come after a reload.
async fn open(client: &traffic::Client, count: usize, wish: Wish) -> anyhow::Result<Vec<Tunnel>> {
    let mut opening = JoinSet::<anyhow::Result<Tunnel>>::new();
    let mut tunnels = Vec::with_capacity(count);
    for started in 0..count {
        if opening.len() == OPENING {
            let opened = opening.join_next().await.context("a tunnel was being opened")?;
            tunnels.push(opened?.with_context(|| format!("after {started} tunnels"))?);
        }
        let client = client.clone();
        opening.spawn(async move { client.open(wish).await });
    }
    while let Some(opened) = opening.join_next().await {
        tunnels.push(opened??);
    }
    Ok(tunnels)
}

/// KiB of the proxy once two looks in a row agree: what closing and opening leave to do is done.
async fn at_rest(proxy: &Proxy) -> anyhow::Result<u64> {
    let start = std::time::Instant::now();
    let mut last = proxy.memory()?;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = proxy.memory()?;
        if now == last || start.elapsed() > REST {
            return Ok(now);
        }
        last = now;
    }
}
