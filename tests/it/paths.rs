//! Routes match every spelling of a path, and paths are forwarded as sent.

use crate::support::{Backend, Proxy, Raw, message};

/// A proxy that routes `/metrics` to a pool `metrics`, and everything else to `app`.
async fn proxy_with_metrics_route(app: &Backend, metrics: &Backend) -> Proxy {
    Proxy::with(|settings| {
        settings.backends(&[app.address]);
        settings.table(&format!(
            "[[routes]]\npath = \"/metrics\"\npool = \"metrics\"\n[pools.metrics]\n\
             backends = [\"{}\"]\nhealth = {{ probe = \"off\" }}\n\
             reuse = {{ idle_timeout = \"1s\" }}\n",
            metrics.address
        ));
    })
    .await
}

/// Targets and the pool that answers; `""`: the proxy, with 400.
const CASES: [(&str, &str); 34] = [
    ("/metrics", "metrics"),
    ("/metrics?x=%2f..", "metrics"),
    ("/%6detrics", "metrics"),
    ("/%6Detrics/x", "metrics"),
    ("/%6d%65%74%72%69%63%73", "metrics"),
    ("//metrics", "metrics"),
    ("///metrics///x//", "metrics"),
    ("//%6Detrics//..x", "metrics"),
    ("/metrics/a%2fb", "metrics"),
    ("/metrics/a;b=c", "metrics"),
    ("/", "app"),
    ("//", "app"),
    ("/metricsx", "app"),
    ("/x/metrics", "app"),
    ("/METRICS", "app"),
    ("/a%2fb", "app"),
    ("/a;b=c/d", "app"),
    ("/%c3%bc", "app"),
    ("/%256detrics", "app"),
    ("/%25%36detrics", "app"),
    ("/%", "app"),
    ("/%zz", "app"),
    ("/%6zetrics", "app"),
    ("/socket.io/?EIO=4&transport=polling&t=a%2Fb", "app"),
    // Paths that only some backends read as the route's path.
    ("/metrics%2fx", ""),
    ("/%2fmetrics", ""),
    ("/%2Fmetrics/x", ""),
    ("/metrics;x=1", ""),
    ("/a/../metrics", ""),
    ("/a/%2e%2e/metrics", ""),
    ("/%2E/metrics", ""),
    ("/..;/metrics", ""),
    ("/a%2f..%2fmetrics", ""),
    ("/metrics%00", ""),
];

#[tokio::test]
async fn fault_130_paths_are_compared_in_normal_form_and_forwarded_unchanged() {
    let (app, metrics) = (Backend::replying("app").await, Backend::replying("metrics").await);
    let proxy = proxy_with_metrics_route(&app, &metrics).await;
    for (target, expected) in CASES {
        let reply = Raw::ask(proxy.web(), message::get(target, "")).await;
        if expected.is_empty() {
            assert_eq!(reply.status(), 400, "{target}: {}", reply.text());
            assert!(reply.text().starts_with("The path "), "{target}: {}", reply.text());
            continue;
        }
        assert_eq!(reply.status(), 200, "{target}: {}", reply.text());
        assert_eq!(reply.text(), expected, "{target}");
        let backend = if expected == "app" { &app } else { &metrics };
        assert_eq!(backend.requests().last().unwrap().target(), target);
    }
    drop((app, metrics));
    proxy.finish().await;
}

#[tokio::test]
async fn explain_and_requests_match_the_same_routes() {
    let (app, metrics) = (Backend::replying("app").await, Backend::replying("metrics").await);
    let proxy = proxy_with_metrics_route(&app, &metrics).await;
    for (target, expected) in CASES {
        let url = format!("http://{}{target}", proxy.web());
        let explained = proxy.command(&["explain", &url, "--json"]).await.json();
        let pool = explained["pool"].as_str().unwrap_or_default();
        assert_eq!(pool, expected, "{target}: {explained}");
    }
    drop((app, metrics));
    proxy.finish().await;
}

#[tokio::test]
async fn the_path_of_a_route_is_normalized() {
    let (app, other) = (Backend::replying("app").await, Backend::replying("other").await);
    let proxy = Proxy::with(|settings| {
        settings.backends(&[app.address]);
        settings.table(&format!(
            "[[routes]]\npath = \"//%6detrics%2Ex/\"\npool = \"other\"\n[pools.other]\n\
             backends = [\"{}\"]\nhealth = {{ probe = \"off\" }}\n\
             reuse = {{ idle_timeout = \"1s\" }}\n",
            other.address
        ));
    })
    .await;
    for target in ["/metrics.x", "/metrics%2ex/a", "//metrics.x"] {
        assert_eq!(
            Raw::ask(proxy.web(), message::get(target, "")).await.text(),
            "other",
            "{target}"
        );
    }
    assert_eq!(Raw::ask(proxy.web(), message::get("/metrics", "")).await.text(), "app");
    drop((app, other));
    proxy.finish().await;
}

#[tokio::test]
async fn two_routes_with_equal_normalized_paths_are_rejected() {
    let app = Backend::replying("app").await;
    let mut proxy = Proxy::for_backends(&[app.address]).await;
    let mut text = String::new();
    proxy.rewrite(|settings| {
        settings.table("[[routes]]\npath = \"/metrics\"\npool = \"app\"\n");
        settings.table("[[routes]]\npath = \"/%6Detrics/\"\npool = \"app\"\n");
        text = settings.text();
    });
    proxy.refuses(&text, &["another route already has this host and path"]).await;
    drop(app);
    proxy.finish().await;
}
