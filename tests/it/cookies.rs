//! The affinity cookie, valid and forged.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

use crate::support::{
    Backend, Node, Proxy, Raw, message,
    node::{cookie_field, handshake, handshake_target, poll},
    pair::Pair,
    proxy::Setup,
    settings,
    tls::Certificate,
    websocket,
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
    let value = good.strip_prefix("moorline-app=").unwrap();
    let flipped = |at: usize| {
        let swap = |c: char| if c == 'A' { 'B' } else { 'A' };
        let chars = value.chars().enumerate();
        let forged: String = chars.map(|(n, c)| if n == at { swap(c) } else { c }).collect();
        format!("moorline-app={forged}")
    };
    let stranger = Pair::start().await;
    let foreign = stranger.session_on("b").await.cookie.unwrap();
    for (n, forged) in [
        flipped(0),
        flipped(value.len() / 2),
        format!("moorline-app={}", &value[..value.len() - 1]),
        format!("moorline-app={value}A"),
        format!("moorline-app={}", "A".repeat(value.len())),
        format!("moorline-app={}", value.to_lowercase()),
        format!("moorline-app=\"{value}\"x"),
        "moorline-app=".to_owned(),
        "moorline".to_owned(),
        // A valid cookie of a process with another key.
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
        format!("moorline-app={address}"),
        format!("moorline-app=http://{address}/"),
        format!("moorline-app={}", pair.a.backend.address),
        "moorline-app=0".to_owned(),
        "moorline-app=1".to_owned(),
        // IP and port as some load balancers write them.
        format!("moorline-app=16777343.{}.0000", address.port().swap_bytes()),
        // A valid cookie of another pool.
        inner_cookie,
    ]
    .into_iter()
    .enumerate()
    {
        pair.assert_ignored(&format!("named{n}"), &cookie_field(&named)).await;
    }
    assert_eq!(canary.connections(), 0, "the proxy connected to an address from a cookie");
    assert_eq!(inner.backend.requests().len(), 1);
    // A cookie reveals nothing about the backend.
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
        format!("Cookie: moorline-app={}\r\n", "A".repeat(5000)),
        format!("Cookie: {huge}\r\n"),
        format!("Cookie: {huge}; moorline-app=x\r\n"),
        format!("Cookie: moorline-app2{}\r\n", b.strip_prefix("moorline-app").unwrap()),
    ]
    .into_iter()
    .enumerate()
    {
        pair.assert_ignored(&format!("odd{n}"), &field).await;
    }
    // The first valid cookie counts, at any position.
    for (n, field) in [
        format!("Cookie: {b}\r\n"),
        format!("Cookie: x=y;{b}; moorline-app2=z\r\n"),
        format!("Cookie: {b}; {b}\r\n"),
        format!("Cookie: {b}; {a}\r\n"),
        format!("Cookie: moorline-app=x; {b}\r\n"),
        format!("Cookie: {b}; moorline-app=x\r\n"),
        format!("Cookie: {huge}; moorline-app=; {b}\r\n"),
        format!("Cookie: moorline-app=x\r\nCookie: y=z; {b}\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        pair.assert_bound(&format!("valid{n}"), &field, "b").await;
    }
    pair.finish().await;
}

#[tokio::test]
async fn a_cookie_of_a_drained_backend_does_not_hide_a_valid_cookie() {
    let pair = Pair::start().await;
    let (a, b) = (pair.session_on("a").await, pair.session_on("b").await);
    let (a, b) = (a.cookie.unwrap(), b.cookie.unwrap());
    let drained = format!("app/{}", pair.a.backend.address);
    assert_eq!(pair.proxy.command(&["drain", &drained]).await.code, 0);
    pair.assert_bound("both", &format!("Cookie: {a}; {b}\r\n"), "b").await;
    pair.finish().await;
}

/// Cookies that a browser keeps for one host, by name.
#[derive(Default)]
struct Jar(BTreeMap<String, String>);

impl Jar {
    /// Requests a path and returns the reply body, which is the backend's name.
    async fn ask(&mut self, client: &mut Raw, path: &str) -> String {
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = match &pairs[..] {
            [] => String::new(),
            pairs => format!("Cookie: {}\r\n", pairs.join("; ")),
        };
        client.send(message::get(path, &cookies)).await;
        let reply = client.response().await;
        for set in reply.all("set-cookie") {
            let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
            self.0.insert(name.to_owned(), value.to_owned());
        }
        reply.text()
    }
}

#[tokio::test]
async fn two_pools_on_one_host_have_a_cookie_each() {
    let mut backends = Vec::new();
    for name in ["a", "b", "c", "x", "y", "z"] {
        backends.push(Backend::replying(name).await);
    }
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let proxy = Proxy::with(|settings| {
        let sticky = "{ cookie = { set_on = \"always\" } }";
        settings.backends(&addresses[..3]).pool("sticky", sticky);
        settings.pool("balance", "\"round-robin\"");
        let other = settings::list(&addresses[3..]);
        settings.table(&format!(
            "[[routes]]\npath = \"/other\"\npool = \"other pool\"\n[pools.\"other pool\"]\n\
             backends = {other}\nbalance = \"round-robin\"\nsticky = {sticky}\n\
             health = {{ probe = \"off\" }}\nreuse = {{ idle_timeout = \"1s\" }}\n"
        ));
    })
    .await;
    let (mut client, mut jar) = (Raw::connect(proxy.web()).await, Jar::default());
    let home = (jar.ask(&mut client, "/").await, jar.ask(&mut client, "/other").await);
    for _ in 0..4 {
        let now = (jar.ask(&mut client, "/").await, jar.ask(&mut client, "/other").await);
        assert_eq!(now, home, "{:?}", jar.0);
    }
    let names: Vec<_> = jar.0.keys().collect();
    assert!(names.len() == 2 && names.iter().any(|name| *name == "moorline-app"), "{names:?}");
    drop((client, backends));
    proxy.finish().await;
}

#[tokio::test]
async fn a_cookie_with_the_former_name_is_accepted_and_replaced() {
    let pair = Pair::start().await;
    let good = pair.session_on("b").await.cookie.unwrap();
    let former = good.replace("moorline-app=", "moorline=");
    let sessions = pair.spread("former", &cookie_field(&former)).await;
    for session in sessions {
        assert_eq!((session.node.as_str(), session.cookie), ("b", Some(good.clone())));
    }
    for request in pair.b.backend.requests().iter().filter(|r| r.target().contains("t=former")) {
        assert_eq!(request.all("cookie"), ["other=1"]);
    }
    // An application's cookie with that name is not the proxy's.
    let mut client = pair.client().await;
    let session = handshake(&mut client, "app", "Cookie: moorline=theirs\r\n").await;
    let node = if session.node == "a" { &pair.a } else { &pair.b };
    let requests = node.backend.requests();
    let request = requests.iter().find(|r| r.target().contains("t=app")).unwrap();
    assert_eq!(request.all("cookie"), ["moorline=theirs"]);
    drop(client);
    pair.finish().await;
}

#[tokio::test]
async fn fault_139_the_sticky_cookie_is_not_forwarded() {
    let pair = Pair::start().await;
    let ours = pair.session_on("b").await.cookie.unwrap();
    let mut client = pair.client().await;
    let cases = [
        (format!("Cookie: {ours}\r\n"), vec![]),
        (format!("Cookie: a=\"b\";  c=d; {ours}\r\n"), vec!["a=\"b\";  c=d"]),
        (format!("Cookie: {ours}; a=b\r\n"), vec!["a=b"]),
        (format!("Cookie: a=b; {ours};c=d; moorline-app=x\r\n"), vec!["a=b;c=d"]),
        (
            format!("Cookie: {ours}\r\nCookie: io=1; moorline-app2=y\r\n"),
            vec!["io=1; moorline-app2=y"],
        ),
        ("Cookie: a=b; moorline-other=x; ;c\r\n".to_owned(), vec!["a=b; moorline-other=x; ;c"]),
    ];
    for (n, (headers, expected)) in cases.iter().enumerate() {
        for upgrade in [false, true] {
            let mark = format!("strip{n}{upgrade}");
            let target = handshake_target(&mark);
            if upgrade {
                let mut client = pair.client().await;
                let target = target.replace("polling", "websocket");
                client.send(websocket::request(&target, headers)).await;
                assert_eq!(client.response().await.status(), 101);
            } else {
                client.send(message::get(&target, headers)).await;
                assert_eq!(client.response().await.status(), 200);
            }
            let all = [pair.a.backend.requests(), pair.b.backend.requests()].concat();
            let request = all.iter().find(|r| r.target().ends_with(&format!("t={mark}"))).unwrap();
            assert_eq!(&request.all("cookie"), expected, "{headers}");
        }
    }
    drop(client);
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
        // A client with the cookie gets no new one, and the backend's caching fields stay.
        let reply = Raw::ask(proxy.web(), message::get("/page", &cookie_field(cookie))).await;
        assert_eq!(reply.header("set-cookie"), None);
        let given: String =
            reply.all("cache-control").iter().map(|v| format!("Cache-Control: {v}\r\n")).collect();
        assert!(fields.starts_with(&given), "{given}");
        drop(backend);
        proxy.finish().await;
    }
}

/// Starts a proxy with these cookie keys in front of these backends.
async fn proxy_with_keys(keys: &[&str], addresses: &[SocketAddr]) -> Proxy {
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
    let one = proxy_with_keys(&[KEY_ONE], &[first, second]).await;
    let two = proxy_with_keys(&[KEY_ONE], &[second, first]).await;
    let mut client = Raw::connect(one.web()).await;
    for _ in 0..4 {
        let session = handshake(&mut client, "one", "").await;
        let cookie = session.cookie.unwrap();
        assert_eq!(nodes_by_cookie(&two, &cookie).await, vec![session.node.clone(); 4]);
        // The other proxy finds the session by its sid, without a cookie.
        let mut other = Raw::connect(two.web()).await;
        let reply = poll(&mut other, &session.sid, "two", "").await;
        assert_eq!(reply.header("x-node"), Some(session.node.as_str()));
    }
    let session = handshake(&mut client, "one", "").await;
    drop(client);
    one.finish().await;
    let again = proxy_with_keys(&[KEY_ONE], &[first, second]).await;
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
    let mut proxy = proxy_with_keys(&[KEY_ONE], &addresses).await;
    let mut client = Raw::connect(proxy.web()).await;
    let session = handshake(&mut client, "old", "").await;
    let (old, node) = (session.cookie.unwrap(), session.node);
    key_file(proxy.directory(), &[KEY_TWO, KEY_ONE]);
    proxy.reload(|_| ()).await;
    // The old cookie is still valid and is replaced.
    let session = handshake(&mut client, "rotated", &cookie_field(&old)).await;
    assert_eq!(session.node, node);
    let fresh = session.cookie.expect("a cookie under the new key");
    assert_ne!(fresh, old);
    let session = handshake(&mut client, "fresh", &cookie_field(&fresh)).await;
    assert_eq!((session.node, session.cookie), (node.clone(), None));
    // Without the old key, the old cookie is invalid.
    key_file(proxy.directory(), &[KEY_TWO]);
    proxy.reload(|_| ()).await;
    assert_eq!(nodes_by_cookie(&proxy, &fresh).await, vec![node; 4]);
    let nodes = nodes_by_cookie(&proxy, &old).await;
    assert!(nodes.contains(&"a".to_owned()) && nodes.contains(&"b".to_owned()), "{nodes:?}");
    drop((client, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_103_cookie_attributes_depend_on_tls_and_origin() {
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
