//! A small OpenID provider, and a browser without pages. The provider can lie, which a real one does not: tests/socketio
//! has the test with a real one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use aws_lc_rs::digest::{SHA256, digest};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::issuer::{Issuer, base64, now};
use crate::support::{Backend, Message, Proxy, Raw, backend, message};

/// Basic authentication of `chat` with the secret `a secret`, both encoded.
const CLIENT: &str = "Basic Y2hhdDphJTIwc2VjcmV0";

/// A provider that accepts every client.
pub(super) struct Provider {
    pub(super) backend: Backend,
    state: Arc<Mutex<ProviderState>>,
}

#[derive(Default)]
struct ProviderState {
    grants: HashMap<String, Grant>,
    /// Changes of the published configuration.
    document: Value,
    /// Changes of the claims of ID tokens.
    claims: Value,
    /// Signs ID tokens instead of the issuer, which publishes its key.
    signer: Option<Issuer>,
    /// Answer of the token endpoint.
    answer: Option<Vec<u8>>,
    /// Form of the last request for a token.
    form: HashMap<String, String>,
}

/// What belongs to a code.
struct Grant {
    challenge: String,
    redirect: String,
    nonce: String,
    subject: String,
}

/// The parameters of a form or of a URL.
pub(super) fn parameters(text: &str) -> HashMap<String, String> {
    let text = text.split_once('?').map_or(text, |(_, query)| query);
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect()
}

impl Provider {
    pub(super) async fn start() -> Self {
        let state: Arc<Mutex<ProviderState>> = Arc::default();
        let (issuer, shared) = (Issuer::new(), Arc::clone(&state));
        let script = backend::answering(move |request: &Message| {
            let url = format!("http://{}", request.header("host").unwrap());
            let mut state = shared.lock().unwrap();
            match request.target() {
                "/.well-known/openid-configuration" => message::ok(&state.document(&url)),
                "/jwks" => message::ok(&json!({ "keys": [issuer.jwk()] }).to_string()),
                "/token" => state.token(request, &url, &issuer),
                _ => message::reply("404 Not Found", "", ""),
            }
        });
        Self { backend: Backend::start(script).await, state }
    }

    /// The issuer.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.backend.address)
    }

    /// Accepts a login. Returns the query of the callback.
    pub(super) fn accept(&self, location: &str, subject: &str) -> String {
        let asked = parameters(location);
        let mut state = self.state.lock().unwrap();
        let code = format!("code-{}", state.grants.len());
        let take = |name: &str| asked[name].clone();
        let grant = Grant {
            challenge: take("code_challenge"),
            redirect: take("redirect_uri"),
            nonce: take("nonce"),
            subject: subject.to_owned(),
        };
        state.grants.insert(code.clone(), grant);
        format!("code={code}&state={}", asked["state"])
    }

    /// Changes the published configuration. It is fetched once.
    pub(super) fn publish(&self, changes: Value) {
        self.state.lock().unwrap().document = changes;
    }

    /// Changes the claims of ID tokens.
    pub(super) fn claim(&self, changes: Value) {
        self.state.lock().unwrap().claims = changes;
    }

    /// Signs ID tokens with another key.
    pub(super) fn sign_with(&self, signer: Option<Issuer>) {
        self.state.lock().unwrap().signer = signer;
    }

    /// Answers requests for tokens with this.
    pub(super) fn answer(&self, answer: Option<Vec<u8>>) {
        self.state.lock().unwrap().answer = answer;
    }

    /// The form of the last request for a token.
    pub(super) fn form(&self) -> HashMap<String, String> {
        self.state.lock().unwrap().form.clone()
    }
}

fn with(mut object: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
    object
}

impl ProviderState {
    fn document(&self, url: &str) -> String {
        let document = json!({
            "issuer": url,
            "authorization_endpoint": format!("{url}/auth"),
            "token_endpoint": format!("{url}/token"),
            "jwks_uri": format!("{url}/jwks"),
            "end_session_endpoint": format!("{url}/out?from=here"),
        });
        with(document, &self.document).to_string()
    }

    fn token(&mut self, request: &Message, url: &str, issuer: &Issuer) -> Vec<u8> {
        self.form = parameters(&request.text());
        if let Some(answer) = &self.answer {
            return answer.clone();
        }
        let refused = |error: &str| {
            message::reply("400 Bad Request", "", &json!({ "error": error }).to_string())
        };
        if request.header("authorization") != Some(CLIENT) {
            return refused("invalid_client");
        }
        // A code is good once.
        let Some(grant) = self.grants.get_mut(&self.form["code"]) else {
            return refused("invalid_grant");
        };
        let challenge = base64(digest(&SHA256, self.form["code_verifier"].as_bytes()));
        let redirect = std::mem::take(&mut grant.redirect);
        if challenge != grant.challenge || redirect != self.form["redirect_uri"] {
            return refused("invalid_grant");
        }
        let claims = json!({
            "iss": url, "sub": grant.subject, "nonce": grant.nonce, "email": "anna@id.test", "exp": now() + 600,
        });
        let token = self.signer.as_ref().unwrap_or(issuer).claims(&with(claims, &self.claims));
        let answer = json!({ "access_token": "a", "token_type": "Bearer", "id_token": token });
        message::ok(&answer.to_string())
    }
}

/// A browser: it keeps cookies.
pub(super) struct Browser<'p> {
    proxy: &'p Proxy,
    pub(super) cookies: BTreeMap<String, String>,
    /// Sent in every request.
    fields: &'static str,
}

/// Fields of a request for a page.
pub(super) const PAGE: &str = "Sec-Fetch-Mode: navigate\r\nAccept: text/html\r\n";

impl<'p> Browser<'p> {
    /// A browser that opens `http://localhost`.
    pub(super) fn new(proxy: &'p Proxy) -> Self {
        Self { proxy, cookies: BTreeMap::new(), fields: "Host: localhost\r\n" }
    }

    /// A browser that opens `https://app.test`.
    pub(super) fn secure(proxy: &'p Proxy) -> Self {
        let fields = "Host: app.test\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
        Self { fields, ..Self::new(proxy) }
    }

    /// The `Cookie` field.
    pub(super) fn cookie(&self) -> String {
        let pairs = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        format!("Cookie: {}\r\n", pairs.collect::<Vec<_>>().join("; "))
    }

    /// Sends a request, and keeps the cookies of the reply. `line`: method and target.
    pub(super) async fn ask(&mut self, line: &str, fields: &str) -> Message {
        let cookie = self.cookie();
        let request = format!("{line} HTTP/1.1\r\n{}{cookie}{fields}\r\n", self.fields);
        let reply = Raw::ask(self.proxy.web(), request).await;
        for cookie in reply.all("set-cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            match cookie.contains("Max-Age=0;") {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        reply
    }

    /// Opens a page.
    pub(super) async fn open(&mut self, target: &str) -> Message {
        self.ask(&format!("GET {target}"), PAGE).await
    }

    /// Begins a login. Returns the URL of the provider.
    pub(super) async fn begin(&mut self, target: &str) -> String {
        let reply = self.open(target).await;
        assert_eq!(reply.status(), 302, "{}", reply.text());
        reply.header("location").unwrap().to_owned()
    }

    /// Brings an answer of the provider.
    pub(super) async fn answer(&mut self, query: &str) -> Message {
        self.open(&format!("/oidc/callback?{query}")).await
    }

    /// Logs in.
    pub(super) async fn log_in(&mut self, provider: &Provider, subject: &str) {
        let location = self.begin("/").await;
        let reply = self.answer(&provider.accept(&location, subject)).await;
        assert_eq!(reply.status(), 302, "{}", reply.text());
    }

    /// Whether the browser has a login.
    pub(super) fn has_login(&self) -> bool {
        self.cookies.keys().any(|name| name.contains("moorline-login-") && !name.ends_with("-new"))
    }
}
