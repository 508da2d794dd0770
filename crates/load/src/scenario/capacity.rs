//! What this machine can carry: file descriptors and source ports for the clients of a scenario.

use std::{error, fmt, fs, net::SocketAddr};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{ClientKind, Mode, Scenario};

/// Descriptors reserved for anything except clients: files that are written, and connection attempts that
/// overlap an older connection.
const SPARE: u64 = 64;
/// Descriptors of the runtime of one thread.
const PER_THREAD: u64 = 4;
/// Descriptors of one node: pipes to its process, the socket that reserves its address.
const PER_NODE: u64 = 4;
/// Default range of local ports on Linux, if it cannot be read.
const PORTS: (u16, u16) = (32768, 60999);
/// Extra source addresses if clients come and go: a port stays in use for a minute after its connection, and
/// more addresses delay the moment at which ports run out.
const EXTRA_SOURCES_FOR_CHURN: u64 = 64;

/// What the machine offers.
#[derive(Clone, Copy, Debug)]
struct Supply {
    /// Descriptors that are free for clients.
    descriptors: u64,
    /// Ports per address.
    ports: u64,
}

/// What a scenario needs.
#[derive(Clone, Copy, Debug)]
struct Demand {
    clients: u64,
    /// Maximum connections of one client.
    each: u64,
    /// Number of addresses of the target.
    targets: u64,
    /// Whether all addresses of the target are in 127.0.0.0/8.
    loopback: bool,
    /// Whether new clients replace those that have ended.
    stream: bool,
    /// Number of source addresses, if given.
    sources: Option<u32>,
}

/// A scenario with more clients than this machine can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CapacityError {
    /// Too few file descriptors.
    Descriptors {
        /// Clients of the scenario.
        clients: u64,
        /// Descriptors that they need.
        needed: u64,
        /// Descriptors that this process may still open.
        free: u64,
        /// Number of clients that would fit.
        fitting: u64,
    },
    /// Too few local ports.
    Ports {
        /// Clients of the scenario.
        clients: u64,
        /// Ports that they need.
        needed: u64,
        /// Ports of all source addresses.
        free: u64,
        /// Number of clients that would fit.
        fitting: u64,
        /// Whether more source addresses would help.
        more_sources: bool,
    },
}

impl fmt::Display for CapacityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptors { clients, needed, free, fitting } => write!(
                f,
                "{clients} clients need {needed} descriptors, but this process may open only {free} more (see \
                 ulimit -n): {fitting} clients would fit"
            ),
            Self::Ports { clients, needed, free, fitting, more_sources } => {
                write!(
                    f,
                    "{clients} clients need {needed} local ports, but there are only {free} (see \
                     net.ipv4.ip_local_port_range): {fitting} clients would fit"
                )?;
                f.write_str(if *more_sources { "; give more --sources" } else { "" })
            }
        }
    }
}

impl error::Error for CapacityError {}

/// Raises the process's limit of descriptors to its maximum, checks that all clients fit, and chooses the
/// number of source addresses unless `sources` gives it.
///
/// # Errors
///
/// The clients do not fit; the error has the number that would.
pub(crate) fn provide(scenario: &mut Scenario, sources: Option<u32>) -> Result<(), CapacityError> {
    let nodes = match &scenario.mode {
        Mode::Steady | Mode::Controlled | Mode::Herd(_) => 0,
        Mode::Deploy(deploy) => deploy.fleet.nodes,
        Mode::Chaos(chaos) => chaos.fleet.nodes,
    };
    let own = open_descriptors()
        + SPARE
        + PER_THREAD * scenario.threads as u64
        + PER_NODE * u64::from(nodes);
    let supply = Supply {
        descriptors: raise_descriptors().saturating_sub(own),
        ports: ports_of_an_address(),
    };
    let addresses = &scenario.target.addresses;
    let demand = Demand {
        clients: scenario.clients.into(),
        each: connections(scenario.client),
        targets: addresses.len() as u64,
        loopback: addresses.iter().all(is_loopback),
        stream: scenario.messages.repeat,
        sources,
    };
    scenario.sources = demand.fit(supply)?;
    Ok(())
}

/// Raises the soft limit of descriptors to the hard limit, and returns the new limit.
pub(crate) fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    limit.current.unwrap_or(u64::MAX)
}

impl Demand {
    /// Returns the number of source addresses.
    fn fit(&self, supply: Supply) -> Result<u32, CapacityError> {
        let by_descriptors = supply.descriptors / self.each;
        if self.clients > by_descriptors {
            return Err(CapacityError::Descriptors {
                clients: self.clients,
                needed: self.clients * self.each,
                free: supply.descriptors,
                fitting: by_descriptors,
            });
        }
        let needed = self.clients * self.each;
        let of_a_source = supply.ports * self.targets;
        let sources = self.sources.map_or_else(|| self.sources_for(needed, of_a_source), u64::from);
        let ports = of_a_source.saturating_mul(if self.loopback { sources } else { 1 });
        if needed > ports {
            return Err(CapacityError::Ports {
                clients: self.clients,
                needed,
                free: ports,
                fitting: ports / self.each,
                more_sources: self.loopback && self.sources.is_some(),
            });
        }
        Ok(u32::try_from(sources).unwrap_or(u32::MAX))
    }

    /// Half of the ports of an address stay free for other programs and for connections that have just ended.
    fn sources_for(&self, needed: u64, of_a_source: u64) -> u64 {
        let comfortable = (of_a_source / 2).max(1);
        match self.loopback {
            // One address is best: the kernel knows which recent ports can be reused.
            _ if needed <= comfortable => 1,
            true if self.stream => needed.div_ceil(comfortable) + EXTRA_SOURCES_FOR_CHURN,
            true => needed.div_ceil(comfortable),
            false => 1,
        }
    }
}

/// Maximum connections of one client: a poll and a POST in parallel, or the last poll and the new WebSocket.
fn connections(client: ClientKind) -> u64 {
    match client {
        ClientKind::PollingUpgrade | ClientKind::Polling => 2,
        ClientKind::WebSocket
        | ClientKind::Ws
        | ClientKind::Bulk
        | ClientKind::Http
        | ClientKind::Connect => 1,
    }
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.is_ipv4() && address.ip().is_loopback()
}

fn open_descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

fn ports_of_an_address() -> u64 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = range.split_whitespace().map(|bound| bound.parse().ok());
    let (first, last) = match (bounds.next().flatten(), bounds.next().flatten()) {
        (Some(first), Some(last)) => (first, last),
        _ => PORTS,
    };
    u64::from(last.saturating_sub(first)) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Supply = Supply { descriptors: 20_000, ports: 28_000 };
    const DEMAND: Demand =
        Demand { clients: 100, each: 1, targets: 1, loopback: true, stream: false, sources: None };

    #[test]
    fn few_clients_use_one_source_address() {
        assert_eq!(DEMAND.fit(MACHINE), Ok(1));
        assert_eq!(Demand { clients: 14_000, ..DEMAND }.fit(MACHINE), Ok(1));
    }

    #[test]
    fn many_clients_on_loopback_use_several_source_addresses() {
        let rich = Supply { descriptors: 1_000_000, ..MACHINE };
        assert_eq!(Demand { clients: 14_001, ..DEMAND }.fit(rich), Ok(2));
        assert_eq!(Demand { clients: 100_000, each: 2, ..DEMAND }.fit(rich), Ok(15));
        let stream = Demand { clients: 14_001, stream: true, ..DEMAND };
        assert_eq!(stream.fit(rich), Ok(66));
        assert_eq!(Demand { sources: Some(9), ..DEMAND }.fit(rich), Ok(9));
    }

    #[test]
    fn too_few_descriptors_report_the_number_that_fits() {
        let error = Demand { clients: 10_001, each: 2, ..DEMAND }.fit(MACHINE).unwrap_err();
        let fault = error.to_string();
        assert!(fault.contains("10001 clients need 20002 descriptors"), "{fault}");
        assert!(fault.contains("10000 clients would fit"), "{fault}");
        assert!(Demand { clients: 10_000, each: 2, ..DEMAND }.fit(MACHINE).is_ok());
    }

    #[test]
    fn too_few_ports_report_the_number_that_fits() {
        let rich = Supply { descriptors: 1_000_000, ..MACHINE };
        let far = Demand { clients: 28_001, loopback: false, ..DEMAND };
        let fault = far.fit(rich).unwrap_err().to_string();
        assert!(fault.ends_with("28000 clients would fit"), "{fault}");
        assert_eq!(Demand { targets: 2, ..far }.fit(rich), Ok(1));
        let narrow = Demand { clients: 60_000, sources: Some(2), ..DEMAND };
        let fault = narrow.fit(rich).unwrap_err().to_string();
        assert!(fault.ends_with("56000 clients would fit; give more --sources"), "{fault}");
    }

    #[test]
    fn descriptors_and_ports_of_this_machine_are_read() {
        let limit = raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
        assert!(limit > open_descriptors() && ports_of_an_address() > 1000);
    }
}
