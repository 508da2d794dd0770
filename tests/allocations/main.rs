//! Heap allocations of the whole proxy for a request over kept-alive connections, counted by a global allocator.
//!
//! The proxy runs in this process, between a client and a backend that allocate nothing while the count runs. So every
//! counted allocation is one of the proxy. The access log is off, because its lines have any length.

#[cfg(test)]
mod places;
#[cfg(test)]
mod stand;

/// Maximum number of allocations for one request, on average.
#[cfg(test)]
const LIMITS: stand::Limits = stand::Limits { request: 4, poll: 5, post: 6 };

#[cfg(test)]
mod tests {
    use super::{
        LIMITS,
        stand::{GET, POLL, POST, check},
    };

    #[global_allocator]
    static ALLOCATOR: dhat::Alloc = dhat::Alloc;

    #[test]
    fn a_request() {
        check(GET, LIMITS.request);
    }

    #[test]
    fn a_held_poll() {
        check(POLL, LIMITS.poll);
    }

    #[test]
    fn a_post_of_a_session() {
        check(POST, LIMITS.post);
    }
}
