//! The reply to the upgrade command.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{Instant, sleep},
};

use crate::support::{Backend, Proxy, TIMEOUT, process, within};

/// A request that gets a short reply, always of the same length.
const SHORT: &[u8] = b"GET /v1/nothing HTTP/1.1\r\nHost: admin\r\n\r\n";
const UPGRADE: &[u8] = b"POST /v1/upgrade HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n\r\n";

/// Time without a reply after which the socket is taken to be full.
const FULL_AFTER: Duration = Duration::from_millis(500);

/// Sends a request and waits for the reply, but does not read it. Returns false if the reply does not arrive
/// within `limit`.
async fn arrives(admin: &mut UnixStream, limit: Duration) -> bool {
    let before = rustix::io::ioctl_fionread(&*admin).unwrap();
    admin.write_all(SHORT).await.unwrap();
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if rustix::io::ioctl_fionread(&*admin).unwrap() > before {
            return true;
        }
        sleep(Duration::from_millis(1)).await;
    }
    false
}

/// Without other connections the old process ends as soon as the new one serves. The reply cannot be written
/// before the client reads, so that a process that does not wait for its last replies always loses it.
#[tokio::test]
async fn upgrade_command_is_answered_before_the_old_process_ends() {
    let backend = Backend::replying("ok").await;
    let mut proxy = Proxy::for_backends(&[backend.address]).await;
    let mut admin = UnixStream::connect(proxy.socket()).await.unwrap();
    let mut capacity = 0;
    while arrives(&mut admin, FULL_AFTER).await {
        capacity += 1;
    }
    assert!(capacity > 1, "the API does not answer");
    let mut admin = UnixStream::connect(proxy.socket()).await.unwrap();
    for _ in 0..capacity {
        assert!(arrives(&mut admin, TIMEOUT).await);
    }
    let (old, from) = (proxy.pid(), proxy.stderr().len());
    admin.write_all(UPGRADE).await.unwrap();
    proxy.wait_for_successor(from).await;
    for _ in 0..20 {
        if process::state(old).is_none_or(|state| state == 'Z') {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    let mut replies = String::new();
    within("the replies", admin.read_to_string(&mut replies)).await.unwrap();
    let last = replies.rsplit("HTTP/1.1 ").next().unwrap();
    assert!(last.starts_with("200 OK"), "{last}");
    assert!(last.contains(&format!("\"pid\":{}", proxy.pid())), "{last}");
    drop(backend);
    proxy.wait_for_predecessors().await;
    proxy.finish().await;
}
