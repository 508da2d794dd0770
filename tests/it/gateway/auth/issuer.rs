//! An issuer of tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

/// An issuer with a key of ES256.
pub(super) struct Issuer {
    key: KeyPair,
    id: &'static str,
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    pub(super) fn new() -> Self {
        Self::named("k1")
    }

    /// An issuer whose key has this id.
    pub(super) fn named(id: &'static str) -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), id }
    }

    /// The public key as PEM.
    pub(super) fn public_key(&self) -> String {
        self.key.public_key_pem()
    }

    /// The public key as JWK.
    pub(super) fn jwk(&self) -> Value {
        let raw = self.signer().public_key().as_ref().to_vec();
        let (x, y) = (base64(&raw[1..33]), base64(&raw[33..]));
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": self.id, "x": x, "y": y })
    }

    /// A token that is valid for ten minutes.
    pub(super) fn valid(&self, subject: &str) -> String {
        self.until(subject, now() + 600)
    }

    /// A token that expires at this time.
    pub(super) fn until(&self, subject: &str, exp: u64) -> String {
        self.claims(&json!({ "sub": subject, "exp": exp }))
    }

    /// A token with these claims, in addition to those of a valid token for `anna`.
    pub(super) fn claims(&self, more: &Value) -> String {
        let mut claims = json!({
            "iss": "https://id.test", "aud": "chat", "sub": "anna", "iat": now(), "exp": now() + 600,
        });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.text(&claims.to_string())
    }

    /// A token with this text as its claims.
    pub(super) fn text(&self, claims: &str) -> String {
        let header = json!({ "alg": "ES256", "kid": self.id }).to_string();
        let message = format!("{}.{}", base64(header), base64(claims));
        let signature = self.signer().sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", base64(signature))
    }

    /// A token of HS256 whose secret is the public key.
    pub(super) fn with_public_key_as_secret(&self, subject: &str) -> String {
        let exp = now() + 600;
        let claims = json!({ "iss": "https://id.test", "aud": "chat", "sub": subject, "exp": exp });
        let message = format!("{}.{}", base64(r#"{"alg":"HS256"}"#), base64(claims.to_string()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.public_key().as_bytes());
        format!("{message}.{}", base64(hmac::sign(&key, message.as_bytes())))
    }

    fn signer(&self) -> EcdsaKeyPair {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.key.serialize_der())
            .unwrap()
    }
}
