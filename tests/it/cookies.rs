//! The sticky cookie, true and forged.

use std::{fs, net::SocketAddr, path::Path};

use crate::support::{
    Backend, Node, Proxy, Raw, message,
    node::{cookie_field, handshake, handshake_target, poll},
    pair::Pair,
    proxy::Setup,
    tls::Certificate,
};

const KEY_ONE: &str = "0123456789abcdef0123456789abcdef-one";
const KEY_TWO: &str = "0123456789abcdef0123456789abcdef-two";

fn key_file(directory: &Path, keys: &[&str]) -> String {
    let path = directory.join("cookie.key");
    fs::write(&path, keys.join("\n")).unwrap();
    format!("{{ file = {path:?} }}")
}

#[tokio::test]
async fn fault_094_forged_cookie() {
    let pair = Pair::start().await;
    let good = pair.session_on("b").await.cookie.expect("a cookie");
    pair.assert_bound("good", &cookie_field(&good), "b").await;
    let value = good.strip_prefix("moorline=").unwrap();
    let flipped = |at: usize| {
        let swap = |c: char| if c == 'A' { 'B' } else { 'A' };
        let chars = value.chars().enumerate();
        let forged: String = chars.map(|(n, c)| if n == at { swap(c) } else { c }).collect();
        format!("moorline={forged}")
    };
    let stranger = Pair::start().await;
    let foreign = stranger.session_on("b").await.cookie.unwrap();
    for (n, forged) in [
        flipped(0),
        flipped(value.len() / 2),
        format!("moorline={}", &value[..value.len() - 1]),
        format!("moorline={value}A"),
        format!("moorline={}", "A".repeat(value.len())),
        format!("moorline={}", value.to_lowercase()),
        format!("moorline=\"{value}\"x"),
        "moorline=".to_owned(),
        "moorline".to_owned(),
        // A good one, of a process with another key.
        foreign,
    ]
    .into_iter()
    .enumerate()
    {
        if forged != good {
            pair.assert_ignored(&format!("forged{n}"), &cookie_field(&forged)).await;
        }
    }
    stranger.finish().await;
    pair.finish().await;
}

#[tokio::test]
async fn fault_095_cookie_that_names_an_address() {
    let (canary, inner) = (Backend::replying("canary").await, Node::start("inner").await);
    let pair = Pair::with(|settings| {
        settings.host("inner.test", "inner", &[inner.backend.address]);
    })
    .await;
    let address = canary.address;
    let mut client = pair.client().await;
    let request = format!("GET {} HTTP/1.1\r\nHost: inner.test\r\n\r\n", handshake_target("inner"));
    client.send(request).await;
    let reply = client.response().await;
    let inner_cookie = reply.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for (n, named) in [
        format!("moorline={address}"),
        format!("moorline=http://{address}/"),
        format!("moorline={}", pair.a.backend.address),
        "moorline=0".to_owned(),
        "moorline=1".to_owned(),
        // IP and port as some load balancers write them.
        format!("moorline=16777343.{}.0000", address.port().swap_bytes()),
        // A good one, of another pool.
        inner_cookie,
    ]
    .into_iter()
    .enumerate()
    {
        pair.assert_ignored(&format!("named{n}"), &cookie_field(&named)).await;
    }
    assert_eq!(canary.connections(), 0, "a client's word was dialled");
    assert_eq!(inner.backend.requests().len(), 1);
    // Nor does a cookie tell anything about the backend.
    let own = pair.session_on("a").await.reply;
    let set = own.header("set-cookie").unwrap();
    assert!(!set.contains("127.0.0.1") && !set.contains(&address.port().to_string()), "{set}");
    drop((client, canary, inner));
    pair.finish().await;
}

#[tokio::test]
async fn fault_097_oversize_or_duplicate_cookie() {
    let pair = Pair::start().await;
    let (a, b) = (pair.session_on("a").await, pair.session_on("b").await);
    let (a, b) = (a.cookie.unwrap(), b.cookie.unwrap());
    let huge = format!("{b}{}", "A".repeat(5000));
    for (n, field) in [
        format!("Cookie: moorline={}\r\n", "A".repeat(5000)),
        format!("Cookie: {huge}\r\n"),
        format!("Cookie: {a}; {b}\r\n"),
        format!("Cookie: {b}; {b}\r\n"),
        format!("Cookie: {b}; moorline=x\r\n"),
        format!("Cookie: {a}\r\nCookie: {b}\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        pair.assert_ignored(&format!("odd{n}"), &field).await;
    }
    // The controls: alone, and among others, it counts.
    pair.assert_bound("alone", &format!("Cookie: {b}\r\n"), "b").await;
    pair.assert_bound("among", &format!("Cookie: x=y;{b}; moorline2=z\r\n"), "b").await;
    pair.finish().await;
}

#[tokio::test]
async fn fault_101_sticky_cookie_on_a_cacheable_response() {
    for fields in [
        "Cache-Control: public, max-age=600\r\n",
        "Cache-Control: s-maxage=600\r\n",
        "Cache-Control: max-age=600\r\nExpires: Thu, 01 Jan 2099 00:00:00 GMT\r\n",
        "Expires: Thu, 01 Jan 2099 00:00:00 GMT\r\n",
        "",
    ] {
        let backend = Backend::answering(move |_| message::reply("200 OK", fields, "page")).await;
        let proxy = Proxy::with(|settings| {
            settings.backends(&[backend.address]);
            settings.pool("sticky", "{ cookie = { set_on = \"always\" } }");
        })
        .await;
        let reply = Raw::ask(proxy.web(), message::get("/page", "")).await;
        let cookie = reply.header("set-cookie").expect("a cookie").split(';').next().unwrap();
        let control = reply.all("cache-control").join(",").to_ascii_lowercase();
        assert!(control.contains("private") || control.contains("no-store"), "{control}");
        assert!(!control.contains("public") && !control.contains("s-maxage"), "{control}");
        // Who has the cookie gets none, and what the backend says of caching stands.
        let reply = Raw::ask(proxy.web(), message::get("/page", &cookie_field(cookie))).await;
        assert_eq!(reply.header("set-cookie"), None);
        let given: String =
            reply.all("cache-control").iter().map(|v| format!("Cache-Control: {v}\r\n")).collect();
        assert!(fields.starts_with(&given), "{given}");
        drop(backend);
        proxy.finish().await;
    }
}

/// A proxy with these keys in front of these backends, whose names are their addresses.
async fn keyed(keys: &[&str], addresses: &[SocketAddr]) -> Proxy {
    let setup = Setup::new();
    let key = key_file(setup.directory(), keys);
    let with = setup.with(|settings| {
        settings.backends(addresses).pool("balance", "\"round-robin\"").top("cookie_key", &key);
    });
    with.start().await
}

async fn nodes_by_cookie(proxy: &Proxy, cookie: &str) -> Vec<String> {
    let mut client = Raw::connect(proxy.web()).await;
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(handshake(&mut client, "by", &cookie_field(cookie)).await.node);
    }
    nodes
}

#[tokio::test]
async fn fault_102_two_proxies_and_a_restart() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let (first, second) = (a.backend.address, b.backend.address);
    let one = keyed(&[KEY_ONE], &[first, second]).await;
    let two = keyed(&[KEY_ONE], &[second, first]).await;
    let mut client = Raw::connect(one.web()).await;
    for _ in 0..4 {
        let session = handshake(&mut client, "one", "").await;
        let cookie = session.cookie.unwrap();
        assert_eq!(nodes_by_cookie(&two, &cookie).await, vec![session.node.clone(); 4]);
        // A sid from one is found at the other, cookie or not.
        let mut other = Raw::connect(two.web()).await;
        let reply = poll(&mut other, &session.sid, "two", "").await;
        assert_eq!(reply.header("x-node"), Some(session.node.as_str()));
    }
    let session = handshake(&mut client, "one", "").await;
    drop(client);
    one.finish().await;
    let again = keyed(&[KEY_ONE], &[first, second]).await;
    let cookie = session.cookie.unwrap();
    assert_eq!(nodes_by_cookie(&again, &cookie).await, vec![session.node.clone(); 4]);
    let mut client = Raw::connect(again.web()).await;
    let reply = poll(&mut client, &session.sid, "again", "").await;
    assert_eq!(reply.header("x-node"), Some(session.node.as_str()));
    drop((client, a, b));
    again.finish().await;
    two.finish().await;
}

#[tokio::test]
async fn fault_102_key_rotation() {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    let addresses = [a.backend.address, b.backend.address];
    let mut proxy = keyed(&[KEY_ONE], &addresses).await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "old", "").await;
    let (old, node) = (session.cookie.unwrap(), session.node);
    key_file(proxy.directory(), &[KEY_TWO, KEY_ONE]);
    proxy.reload(|_| ()).await;
    // The old one still counts, and is replaced.
    let session = handshake(&mut client, "rotated", &cookie_field(&old)).await;
    assert_eq!(session.node, node);
    let fresh = session.cookie.expect("a cookie under the new key");
    assert_ne!(fresh, old);
    let session = handshake(&mut client, "fresh", &cookie_field(&fresh)).await;
    assert_eq!((session.node, session.cookie), (node.clone(), None));
    // Once the old key is gone, so is its cookie.
    key_file(proxy.directory(), &[KEY_TWO]);
    proxy.reload(|_| ()).await;
    assert_eq!(nodes_by_cookie(&proxy, &fresh).await, vec![node; 4]);
    let nodes = nodes_by_cookie(&proxy, &old).await;
    assert!(nodes.contains(&"a".to_owned()) && nodes.contains(&"b".to_owned()), "{nodes:?}");
    drop((client, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_103_cookie_attributes_by_how_the_client_came() {
    let node = Node::start("a").await;
    let setup = Setup::new();
    let certificate = Certificate::make(setup.directory(), "app.test");
    let setting = certificate.setting();
    let proxy = setup
        .with(|settings| {
            settings.backends(&[node.backend.address]);
            settings.table(&format!(
                "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                 certificates = {setting}\n"
            ));
        })
        .start()
        .await;
    let cross = "Origin: https://elsewhere.test\r\nSec-Fetch-Site: cross-site\r\n";
    let mut plain = Raw::connect(proxy.web()).await;
    let mut secure = Raw::tls(proxy.listener("secure"), &certificate).await;
    let set = async |client: &mut Raw, headers: &str| {
        let reply = handshake(client, "x", headers).await.reply;
        reply.header("set-cookie").unwrap().to_owned()
    };
    let same = set(&mut plain, "").await;
    assert!(same.contains("SameSite=Lax") && !same.contains("Secure"), "{same}");
    let same = set(&mut secure, "").await;
    assert!(same.contains("SameSite=Lax") && same.contains("Secure"), "{same}");
    let other = set(&mut secure, cross).await;
    assert!(other.contains("SameSite=None") && other.contains("Secure"), "{other}");
    assert!(other.contains("HttpOnly"), "{other}");
    drop((plain, secure, node));
    proxy.finish().await;
}
