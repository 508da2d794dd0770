//! Validation of options.

use super::*;

/// Validates a file with these keys and a target.
fn check(keys: &str) -> anyhow::Result<Scenario> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, format!("url = 'http://127.0.0.1:1'\n{keys}")).unwrap();
    Scenario::check(super::super::file::read(file.path()).unwrap())
}

#[test]
fn defaults_are_a_hundred_polling_upgrade_clients() {
    let scenario = check("").unwrap();
    assert_eq!(scenario.client, ClientKind::PollingUpgrade);
    assert_eq!(scenario.protocol, Protocol::V4);
    assert_eq!((scenario.clients, scenario.arrival), (100, Arrival::Rate(100.0)));
    assert_eq!(scenario.messages.pace, Pace::Every(Duration::from_secs(10)));
    assert_eq!(scenario.messages.answer, Answer::Ack);
    assert_eq!(scenario.hold, Duration::from_secs(30));
    assert!(scenario.reconnect && scenario.tls.resume && !scenario.cookies);
    assert_eq!(scenario.mode, Mode::Steady);
}

#[test]
fn hold_must_cover_all_events() {
    let deploy = check("[deploy]\nbackends-file = 'list'\nnodes = 2\ndrain = '3s'").unwrap();
    assert_eq!(deploy.hold, Duration::from_secs(5 + 2 * (3 + 5) + 10));
    let fault = check("hold = '5s'\n[herd]\ntimes = 2").unwrap_err().to_string();
    assert_eq!(fault, "invalid hold 5s: the events take 35s; use at least this");
}

#[test]
fn chaos_events_are_sorted_and_their_nodes_checked() {
    let given = "[chaos]\nbackends-file = 'list'\ndo = ['9s reset 2', '1s kill 0 back 2s']";
    let Mode::Chaos(chaos) = check(given).unwrap().mode else { panic!("chaos") };
    assert_eq!(chaos.events[0].fault, NodeFault::Kill { back_after: Some(Duration::from_secs(2)) });
    let fault =
        check("[chaos]\nbackends-file = 'list'\ndo = ['1s reset 3']").unwrap_err().to_string();
    assert_eq!(fault, "invalid node 3: there are 3 nodes, numbered from 0");
}

#[test]
fn a_controlled_run_ends_with_its_input() {
    let url = Some("http://127.0.0.1:1".to_owned());
    let controlled = Options { url, controlled: true, ..Options::default() };
    let scenario = Scenario::check(controlled.clone()).unwrap();
    assert_eq!((scenario.mode, scenario.hold), (Mode::Controlled, Duration::ZERO));
    let held = Options { hold: "1s".parse().ok(), ..controlled.clone() };
    let fault = Scenario::check(held).map(|_| ()).unwrap_err().to_string();
    let wanted = "hold has no effect: a controlled run ends with its standard input; remove hold";
    assert_eq!(fault, wanted);
    let herded = Options { herd: Some(HerdOptions::default()), ..controlled };
    let fault = Scenario::check(herded).map(|_| ()).unwrap_err().to_string();
    let wanted = "the scenario file of a controlled run cannot have a table herd, deploy or chaos";
    assert_eq!(fault, wanted);
}

#[test]
fn invalid_options_are_rejected_with_a_reason() {
    for (keys, fault) in [
        ("clients = 0", "invalid value 0 for clients: use a number from 1 to 1000000"),
        ("eio = 5", "invalid value 5 for eio: use 3 or 4"),
        ("rate = 1\nramp = '1s'", "rate and ramp exclude each other: give one of them"),
        (
            "every = '1s'\nthink = '1s'",
            "every, think and silent exclude each other: give one of them",
        ),
        ("every = '0s'", "invalid duration 0 for every: use a longer one"),
        ("messages = 0", "invalid value 0 for messages: use silent for clients that send nothing"),
        (
            "repeat = true",
            "repeat needs messages, the number of messages after which a client is replaced",
        ),
        (
            "stay = true",
            "stay needs messages, after the last of which the client stays, and excludes repeat",
        ),
        (
            "stay = true\nmessages = 1\nclient = 'connect'",
            "stay has no effect: connect clients send no messages",
        ),
        (
            "single-connection = true\nclient = 'polling'",
            "single-connection needs silent polling clients: give client polling and silent",
        ),
        ("read-rate = '1KiB'", "read-rate needs HTTP clients: give client http"),
        (
            "read-rate = 0\nclient = 'http'",
            "invalid value 0 for read-rate: use a number from 1 to 67108864",
        ),
        ("messages = 1\nsilent = true", "messages needs clients that send: give every or think"),
        ("header = ['x']", "invalid header \"x\": write it as 'Name: value'"),
        (
            "[deploy]",
            "no backends-file: give the file from which the proxy in front reads its backends",
        ),
        ("[chaos]\nbackends-file = 'list'", "no events: give some, for example --do '5s kill 1'"),
        (
            "max-p99 = '1s'\nsilent = true",
            "max-p99 cannot be checked: the clients send no message that is answered",
        ),
        (
            "max-p99 = '1s'\nanswer = 'none'",
            "max-p99 cannot be checked: the clients send no message that is answered",
        ),
        (
            "max-p99 = '1s'\nclient = 'bulk'",
            "max-p99 cannot be checked: the clients send no message that is answered",
        ),
        (
            "max-code1 = 0\nclient = 'ws'",
            "max-code1 cannot be checked: ws clients do not use Engine.IO",
        ),
        (
            "max-misrouted = 0\nclient = 'http'",
            "max-misrouted cannot be checked: http clients have no session id",
        ),
        (
            "max-disconnects = 0\nclient = 'connect'",
            "max-disconnects cannot be checked: connect clients disconnect at once",
        ),
        ("[herd]\n[chaos]", "herd, deploy and chaos exclude each other: use one of them"),
    ] {
        let found = check(keys).map(|_| ()).unwrap_err().to_string();
        assert_eq!(found, fault, "{keys}");
    }
    let fault = Scenario::check(Options::default()).map(|_| ()).unwrap_err().to_string();
    assert!(fault.starts_with("no target"), "{fault}");
}
