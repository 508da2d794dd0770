//! Rows about clients that occupy a proxy with little or no work, and about a second worker.

use super::{Group, Held, Kept, Kind, Load};
use crate::peer::{ListenerKind, Scene};

const METHOD_OF_REST: &str = "What is kept is measured 5 to 10 s after the last client left, as soon as the memory does not fall \
     any more.";

fn load(title: &'static str, path: &'static str, kind: Kind) -> Load {
    let listener = if title == "TLS" { ListenerKind::Tls } else { ListenerKind::Plain };
    Load { title, listener, path, kind, scene: Scene::Http, quick: true }
}

pub(super) fn idle() -> Group {
    let held = |title| {
        let held = Held {
            flags: "--client ws --silent",
            counts: &[1000, 4000, 8000],
            quick: &[1000],
            arrivals: 1000,
            hold: 1,
            kept: Kept::Nothing,
        };
        load(title, "/", Kind::Held(held))
    };
    Group {
        title: "4. Idle WebSockets",
        method:
            "Growth of the proxy's proportional set size with this number of open, silent sockets, \
                 divided by the number. Memory of the kernel for sockets is not included."
                .to_owned(),
        loads: vec![held("plain"), held("TLS")],
    }
}

pub(super) fn polls() -> Group {
    let held = |title| {
        let held = Held {
            flags: "--client polling --silent --single-connection --cookies",
            counts: &[1000, 4000],
            quick: &[1000],
            arrivals: 400,
            hold: 1,
            kept: Kept::Share,
        };
        load(title, "/socket.io/", Kind::Held(held))
    };
    Group {
        title: "10. Held polls",
        method: format!(
            "As above, with this number of Socket.IO clients that hold a poll, on 3 nodes; each has one \
             connection. They leave by closing it. {METHOD_OF_REST}"
        ),
        loads: vec![held("plain"), held("TLS")],
    }
}

pub(super) fn kept_alive() -> Group {
    let held = |title| {
        let held = Held {
            flags: "--client http --messages 1 --think 0ms --stay",
            counts: &[1000, 4000],
            quick: &[1000],
            arrivals: 1000,
            hold: 1,
            kept: Kept::Nothing,
        };
        load(title, "/", Kind::Held(held))
    };
    Group {
        title: "11. Idle kept-alive connections",
        method: "As above, with this number of HTTP/1.1 connections that made one small request each and stay \
                 open."
            .to_owned(),
        loads: vec![held("plain"), held("TLS")],
    }
}

pub(super) fn slow_readers() -> Group {
    let held = |title| {
        let held = Held {
            // Four seconds for each response.
            flags: "--client http --think 0ms --read-rate 256KiB",
            counts: &[500],
            quick: &[100],
            arrivals: 1000,
            hold: 6,
            kept: Kept::ShareAndEach,
        };
        load(title, "/bulk?bytes=1048576", Kind::Held(held))
    };
    Group {
        title: "12. Slow readers",
        method: format!(
            "As above, with this number of clients that read responses of 1 MiB at 256 KiB/s, and leave in the \
             middle of one. nginx writes the rest of a response to a file. {METHOD_OF_REST}"
        ),
        loads: vec![held("plain"), held("TLS")],
    }
}

pub(super) fn workers() -> Group {
    let busy =
        |title| load(title, "/", Kind::Workers { flags: "--client http --clients 50 --think 0ms" });
    Group {
        title: "13. A second worker",
        method: "The requests of section 1 through one worker on the proxy's core, and through two workers. \
                 Without a third core, the second worker shares a core with load and origin."
            .to_owned(),
        loads: vec![busy("plain"), busy("TLS")],
    }
}
