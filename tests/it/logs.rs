//! Logs whose reader is stuck: no connection waits for them, and no line is lost.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{
    Backend, Raw, TIMEOUT, eventually, message,
    proxy::{RELOADS_OK, RELOADS_REFUSED, Setup},
    within,
};

const WORKERS: &str = "TOKIO_WORKER_THREADS";

#[tokio::test]
async fn a_stuck_reader_of_standard_error_delays_no_connection() {
    let backend = Backend::replying("ok").await;
    let address = backend.address;
    let proxy = Setup::new()
        .with(|settings| {
            settings.backends(&[address]);
        })
        .env(WORKERS, "1")
        .env("MOORLINE_TEST_PANIC", "1")
        .with_stuck_stderr()
        .start()
        .await;
    // The text of the rejection is longer than the pipe.
    let faults: String = (0..500).map(|number| format!("unknown_{number} = 1\n")).collect();
    proxy.write(&(faults + &proxy.settings.text()));
    proxy.hangup();
    proxy.wait_for_metric("a rejection", RELOADS_REFUSED, |count| count > 0.0).await;
    // A worker that logs is not delayed either.
    let mut panicking = Raw::connect(proxy.web()).await;
    panicking.send(message::get("/__panic", "")).await;
    panicking.rest().await;
    assert_eq!(Raw::ask(proxy.web(), message::get("/", "")).await.text(), "ok");
}

#[tokio::test]
async fn a_swap_of_a_stuck_access_log_delays_no_request_and_loses_no_line() {
    const LINES: usize = 10;
    let backend = Backend::replying("ok").await;
    let setup = Setup::new();
    let path = setup.directory().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let pipe = File::options().read(true).write(true).open(&path).unwrap();
    let size = rustix::pipe::fcntl_setpipe_size(&pipe, 4096).unwrap();
    let mut file = String::new();
    let mut proxy = setup
        .with(|settings| {
            settings.backends(&[backend.address]);
            file = settings.set_top("access_log", &format!("{{ file = {path:?} }}"));
        })
        .env(WORKERS, "1")
        .start()
        .await;
    for number in 0..LINES {
        let target = format!("/old-{number}/{}", "x".repeat(3000));
        assert_eq!(Raw::ask(proxy.web(), message::get(&target, "")).await.text(), "ok");
    }
    let full = || rustix::io::ioctl_fionread(&pipe).unwrap() > size as u64 / 2;
    eventually("the log is stuck", full).await;
    let before = proxy.metric(RELOADS_OK).await;
    proxy.rewrite(|settings| {
        settings.top("access_log", &file);
    });
    proxy.hangup();
    let (deadline, mut slowest) = (Instant::now() + TIMEOUT, Duration::ZERO);
    loop {
        let started = Instant::now();
        assert_eq!(Raw::ask(proxy.web(), message::get("/new", "")).await.text(), "ok");
        let reloaded = proxy.metric(RELOADS_OK).await > before;
        slowest = slowest.max(started.elapsed());
        if reloaded {
            break;
        }
        assert!(Instant::now() < deadline, "never reloaded: {}", proxy.stderr_text());
    }
    // The old log may be written out for two seconds.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    Raw::ask(proxy.web(), message::get("/newest", "")).await;
    proxy.wait_for_log("a line in the new log", |line| line["path"] == "/newest").await;
    let read = move || {
        let lines = BufReader::new(pipe).lines().map(|line| line.unwrap());
        lines.filter(|line| line.contains("/old-")).take(LINES).count()
    };
    let read = within("the lines of the old log", tokio::task::spawn_blocking(read)).await;
    assert_eq!(read.unwrap(), LINES);
    drop(backend);
    proxy.finish().await;
}
