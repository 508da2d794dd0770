//! What routes do with requests and responses besides relaying them.

mod answers;
mod auth;
mod cache;
mod compression;
mod cors;
mod deadlines;
mod decompression;
mod files;
mod hostile_paths;
mod matching;
mod messages;
mod mirroring;
mod openapi;
mod rewriting;
mod splitting;
mod throttle;
mod transform;

use crate::support::{Backend, Message, Proxy, Raw, message, proxy::Setup};

/// A proxy with one route to the pool of a backend; `keys` are more keys of the route.
async fn routed(backend: &Backend, keys: &str) -> Proxy {
    let setup = Setup::new().with(|settings| {
        settings.unrouted().backends(&[backend.address]);
        settings.table(&format!("[[routes]]\npool = \"app\"\n{keys}"));
    });
    setup.start().await
}

/// Sends a GET request.
async fn get(proxy: &Proxy, target: &str, fields: &str) -> Message {
    Raw::ask(proxy.web(), message::get(target, fields)).await
}

/// Sends a GET request, and returns the last request of the backend.
async fn seen(proxy: &Proxy, backend: &Backend, target: &str, fields: &str) -> Message {
    assert_eq!(get(proxy, target, fields).await.status(), 200, "{target}");
    backend.requests().last().unwrap().clone()
}
