//! Addresses that listeners and the admin API use, so that none is used twice.

use std::{collections::HashMap, net::SocketAddr};

use crate::config::{fault::InvalidValue, file::TomlValue};

/// The addresses that are taken, with the offset of the value that took them.
#[derive(Default)]
pub(in crate::config) struct AddressClaims {
    exact: HashMap<SocketAddr, usize>,
    /// By port and whether it is IPv4: the first that listens on every address, and the first of all.
    ports: HashMap<(u16, bool), (Option<usize>, usize)>,
}

impl AddressClaims {
    /// Takes an address for a value, or notes the earlier place that has it. Listening on every address
    /// of a family covers each single address. Port 0 is a different port each time.
    pub(in crate::config) fn claim(&mut self, value: &TomlValue<'_>, address: SocketAddr) {
        if address.port() == 0 {
            return;
        }
        let at = value.at().start;
        let all = address.ip().is_unspecified();
        let port = self.ports.entry((address.port(), address.is_ipv4())).or_insert((None, at));
        let same = self.exact.get(&address).copied();
        let taken = same.or(port.0).or((all && port.1 != at).then_some(port.1));
        if let Some(earlier) = taken {
            let wrong = InvalidValue::new(format!("the address {address} is already used"));
            let place = value.file.place(earlier, at);
            let help = format!("it was first used {place}; choose another port for one of the two");
            value.fault(wrong.help(help));
            return;
        }
        self.exact.insert(address, at);
        if all {
            port.0 = Some(at);
        }
    }
}
