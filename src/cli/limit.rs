//! The limit of open files of the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::net::client_limits::fitting;

/// A warning is logged below this limit.
const LOW: u64 = 10_000;

/// Raises the limit to its maximum, and logs a warning if it stays low.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    // An error leaves the limit as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < LOW) {
        tracing::warn!("{}", sentence(limit));
    }
}

fn sentence(limit: u64) -> String {
    let tunnels = fitting(limit);
    format!(
        "the limit of open files is {limit}: about {tunnels} WebSockets fit, as each needs two descriptors; \
         raise it with `LimitNOFILE=` in the systemd unit or `ulimit -n`"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_warning_names_the_number_of_websockets() {
        assert!(super::sentence(1024).contains("about 480 WebSockets fit"));
        assert!(super::sentence(10).contains("about 4 WebSockets"));
    }
}
