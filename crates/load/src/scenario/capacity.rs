//! What the machine can carry: descriptors and ports for the wished number of clients.

use std::{fs, net::SocketAddr};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{ClientKind, Course, Scenario};

/// Descriptors of the process that are neither open now nor a client's: files that it writes, an
/// attempt that overlaps the connection before it.
const SPARE: u64 = 64;
/// Descriptors of a thread: its runtime's.
const PER_THREAD: u64 = 4;
/// Descriptors of a node: pipes to its process, its place.
const PER_NODE: u64 = 4;
/// Linux' default range of ports to connect from, for where it cannot be read.
const PORTS: (u16, u16) = (32768, 60999);
/// Where clients come and go, a port stays taken for a minute after each: the more addresses, the later
/// they run out.
const SOURCES_OF_A_STREAM: u64 = 64;

/// What the machine has.
#[derive(Clone, Copy, Debug)]
struct Supply {
    /// Descriptors that clients may have.
    descriptors: u64,
    /// Ports of one address.
    ports: u64,
}

/// What a scenario asks for.
#[derive(Clone, Copy, Debug)]
struct Demand {
    clients: u64,
    /// Connections of one client, at most.
    each: u64,
    /// Addresses of the target.
    targets: u64,
    /// Whether all of them are on 127.0.0.0/8.
    loopback: bool,
    /// Whether new clients take the places of those that left.
    stream: bool,
    /// Addresses to connect from, where they were chosen.
    sources: Option<u32>,
}

/// Raises the process's limit of descriptors as far as it can be, checks that the clients fit, and
/// chooses from how many addresses they connect, where `sources` does not.
///
/// # Errors
///
/// A sentence with the number of clients that would fit.
pub(crate) fn provide(scenario: &mut Scenario, sources: Option<u32>) -> Result<(), String> {
    let nodes = match &scenario.course {
        Course::Steady | Course::Led | Course::Herd(_) => 0,
        Course::Deploy(deploy) => deploy.fleet.nodes,
        Course::Chaos(chaos) => chaos.fleet.nodes,
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

/// Raises the soft limit of descriptors to the hard one: what it is then.
pub(crate) fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    limit.current.unwrap_or(u64::MAX)
}

impl Demand {
    /// From how many addresses the clients are to connect.
    fn fit(&self, supply: Supply) -> Result<u32, String> {
        let by_descriptors = supply.descriptors / self.each;
        if self.clients > by_descriptors {
            return Err(format!(
                "{} clients need {} descriptors, and this process may open {} more (see ulimit -n): \
                 {by_descriptors} clients would fit",
                self.clients,
                self.clients * self.each,
                supply.descriptors,
            ));
        }
        let needed = self.clients * self.each;
        let of_a_source = supply.ports * self.targets;
        let sources = self.sources.map_or_else(|| self.sources_for(needed, of_a_source), u64::from);
        let ports = of_a_source.saturating_mul(if self.loopback { sources } else { 1 });
        if needed > ports {
            let advice = match (self.loopback, self.sources) {
                (true, Some(_)) => ", or more sources",
                _ => "",
            };
            return Err(format!(
                "{} clients need {needed} ports to connect from, and there are {ports} (see \
                 net.ipv4.ip_local_port_range): {} clients would fit{advice}",
                self.clients,
                ports / self.each,
            ));
        }
        Ok(u32::try_from(sources).unwrap_or(u32::MAX))
    }

    /// Half of the ports of an address are left to others, and to connections that have just ended.
    fn sources_for(&self, needed: u64, of_a_source: u64) -> u64 {
        let comfortable = (of_a_source / 2).max(1);
        match self.loopback {
            // The kernel chooses best, as it knows which ports of late can be taken again.
            _ if needed <= comfortable => 1,
            true if self.stream => needed.div_ceil(comfortable) + SOURCES_OF_A_STREAM,
            true => needed.div_ceil(comfortable),
            false => 1,
        }
    }
}

/// Connections of one client, at most: polls and posts side by side, or the last poll beside the
/// WebSocket that takes over.
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
    fn what_fits_leaves_the_choice_of_ports_to_the_kernel() {
        assert_eq!(DEMAND.fit(MACHINE), Ok(1));
        assert_eq!(Demand { clients: 14_000, ..DEMAND }.fit(MACHINE), Ok(1));
    }

    #[test]
    fn many_clients_on_loopback_come_from_many_addresses() {
        let rich = Supply { descriptors: 1_000_000, ..MACHINE };
        assert_eq!(Demand { clients: 14_001, ..DEMAND }.fit(rich), Ok(2));
        assert_eq!(Demand { clients: 100_000, each: 2, ..DEMAND }.fit(rich), Ok(15));
        let stream = Demand { clients: 14_001, stream: true, ..DEMAND };
        assert_eq!(stream.fit(rich), Ok(66));
        assert_eq!(Demand { sources: Some(9), ..DEMAND }.fit(rich), Ok(9));
    }

    #[test]
    fn too_few_descriptors_are_told_with_what_would_fit() {
        let fault = Demand { clients: 10_001, each: 2, ..DEMAND }.fit(MACHINE).unwrap_err();
        assert!(fault.contains("10001 clients need 20002 descriptors"), "{fault}");
        assert!(fault.contains("10000 clients would fit"), "{fault}");
        assert!(Demand { clients: 10_000, each: 2, ..DEMAND }.fit(MACHINE).is_ok());
    }

    #[test]
    fn too_few_ports_are_told_with_what_would_fit() {
        let rich = Supply { descriptors: 1_000_000, ..MACHINE };
        let far = Demand { clients: 28_001, loopback: false, ..DEMAND };
        let fault = far.fit(rich).unwrap_err();
        assert!(fault.ends_with("28000 clients would fit"), "{fault}");
        assert_eq!(Demand { targets: 2, ..far }.fit(rich), Ok(1));
        let narrow = Demand { clients: 60_000, sources: Some(2), ..DEMAND };
        let fault = narrow.fit(rich).unwrap_err();
        assert!(fault.ends_with("56000 clients would fit, or more sources"), "{fault}");
    }

    #[test]
    fn this_machine_has_ports_and_descriptors() {
        let limit = raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
        assert!(limit > open_descriptors() && ports_of_an_address() > 1000);
    }
}
