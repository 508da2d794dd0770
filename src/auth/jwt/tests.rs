use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

use super::*;
use crate::config::TokenPlace;

const NOW: u64 = 1_800_000_000;

fn base64(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A key of ES256, and verifiers that know it.
struct Issuer(KeyPair);

impl Issuer {
    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    fn config(&self) -> JwtConfig {
        let content = self.0.public_key_pem().into_bytes().into();
        JwtConfig {
            keys: KeySource::File { path: "keys.pem".into(), content },
            algorithms: vec![Algorithm::ES256],
            issuers: vec!["https://id.test".to_owned()],
            audiences: vec!["chat".to_owned()],
            places: vec![TokenPlace::Header],
            leeway: Duration::from_secs(30),
            subject: "sub".to_owned(),
        }
    }

    fn verifier(&self) -> JwtVerifier {
        JwtVerifier::new(self.config())
    }

    /// A token with this header and these claims, as text.
    fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header), base64(claims));
        let key = EncodingKey::from_ec_pem(self.0.serialize_pem().as_bytes()).unwrap();
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }

    fn token(&self, claims: &str) -> String {
        self.sign(r#"{"alg":"ES256","typ":"JWT"}"#, claims)
    }
}

/// Valid claims, with others added before the end.
fn claims(more: &str) -> String {
    let exp = NOW + 60;
    format!(
        r#"{{"iss":"https://id.test","aud":"chat","sub":"anna","iat":{NOW},"exp":{exp}{more}}}"#
    )
}

fn fault(verifier: &JwtVerifier, token: &str) -> String {
    verifier.check_now(token, NOW).unwrap_err().to_string()
}

#[test]
fn a_valid_token_has_an_identity_until_it_expires() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier();
    let token = issuer.token(&claims(r#","role":"admin""#));
    // The second check is answered by the cache.
    for _ in 0..2 {
        let identity = verifier.check_now(&token, NOW).unwrap();
        assert_eq!((&*identity.subject, &*identity.issuer), ("anna", "https://id.test"));
        assert_eq!((identity.issued, identity.expires), (Some(NOW), Some(NOW + 60)));
        assert_eq!(identity.claims["role"], "admin");
        assert!(verifier.check_now(&token, NOW + 89).is_ok());
        let expired = verifier.check_now(&token, NOW + 90).unwrap_err();
        assert!(matches!(expired, AuthFault::Expired(identity) if &*identity.subject == "anna"));
    }
    let aud = issuer.token(&claims("").replace("\"chat\"", r#"["x","chat"]"#));
    assert!(verifier.check_now(&aud, NOW).is_ok());
}

#[test]
fn a_token_without_a_valid_signature_is_refused() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let verifier = issuer.verifier();
    let good = issuer.token(&claims(""));
    assert_eq!(fault(&verifier, &other.token(&claims(""))), "the token's signature is not valid");
    let (message, signature) = good.rsplit_once('.').unwrap();
    let changed = claims("").replace("anna", "root");
    let forged = format!("{}.{}.{signature}", message.split_once('.').unwrap().0, base64(&changed));
    for token in [forged, format!("{message}."), format!("{message}.AAAA"), format!("{good}A")] {
        assert_eq!(fault(&verifier, &token), "the token's signature is not valid", "{token}");
    }
    for (token, expected) in [
        ("", "three parts"),
        ("a.b", "three parts"),
        ("a.b.c.d.e", "three parts"),
        ("...", "three parts"),
        ("..", "JSON object"),
        ("!.b.c", "base64url"),
        ("e30.e30.", "algorithm is not allowed"),
    ] {
        assert!(fault(&verifier, token).contains(expected), "{token}: {}", fault(&verifier, token));
    }
    let huge = format!("{message}.{}", "A".repeat(1 << 20));
    assert_eq!(fault(&verifier, &huge), "the credential is too long");
}

#[test]
fn a_token_cannot_choose_its_algorithm() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier();
    for alg in ["none", "None", "NONE", "nOnE", "es256", "", "HS256", "ES384", "RS256", "EdDSA"] {
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        let unsigned = format!("{}.{}.", base64(&header), base64(&claims("")));
        for token in [issuer.sign(&header, &claims("")), unsigned] {
            assert_eq!(fault(&verifier, &token), "the token's algorithm is not allowed", "{alg}");
        }
    }
    for (header, expected) in [
        (r#"{"alg":["ES256"]}"#, "algorithm"),
        (r#"{"typ":"JWT"}"#, "algorithm"),
        (r#"{"alg":"ES256","alg":"ES256"}"#, "twice"),
        (r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, "critical"),
        (r#"{"alg":"ES256","kid":7}"#, "key id"),
    ] {
        let token = issuer.sign(header, &claims(""));
        assert!(fault(&verifier, &token).contains(expected), "{header}");
    }
    // A header cannot bring its own key along.
    let other = Issuer::new();
    let jwk = r#"{"alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},"jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/"}"#;
    assert!(fault(&verifier, &other.sign(jwk, &claims(""))).contains("signature"));
}

#[test]
fn a_public_key_is_not_a_secret() {
    let issuer = Issuer::new();
    // Even if the configuration allows HS256: the public key of the file has no such algorithm.
    let config =
        JwtConfig { algorithms: vec![Algorithm::ES256, Algorithm::HS256], ..issuer.config() };
    let verifier = JwtVerifier::new(config);
    let pem = issuer.0.public_key_pem();
    let message = format!("{}.{}", base64(r#"{"alg":"HS256"}"#), base64(&claims("")));
    for secret in [pem.as_bytes(), pem.trim().as_bytes(), issuer.0.public_key_raw()] {
        let key = EncodingKey::from_secret(secret).unwrap();
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        let token = format!("{message}.{signature}");
        assert_eq!(fault(&verifier, &token), "no key fits the token");
    }
}

#[test]
fn claims_are_checked() {
    let issuer = Issuer::new();
    let verifier = issuer.verifier();
    let valid = claims("");
    let exp = format!(r#""exp":{}"#, NOW + 60);
    let missing = |name| format!("the claim `{name}` is missing or has a wrong type");
    let later = NOW + 31;
    for (claims, expected) in [
        (valid.replace(&exp, r#""x":1"#), missing("exp")),
        (valid.replace(&exp, r#""exp":"4102444800""#), missing("exp")),
        (valid.replace(&exp, r#""exp":true"#), missing("exp")),
        (valid.replace(&exp, r#""exp":null"#), missing("exp")),
        (valid.replace(&exp, r#""exp":[4102444800]"#), missing("exp")),
        (valid.replace(&exp, r#""exp":-1"#), missing("exp")),
        (valid.replace(&exp, r#""exp":1e300"#), missing("exp")),
        (valid.replace(&exp, r#""exp":18446744073709551615"#), missing("exp")),
        (
            claims(r#","exp":4102444800"#),
            "malformed credential: not a JSON object, or a name occurs twice".to_owned(),
        ),
        (
            claims(r#","x":{"a":1,"a":2}"#),
            "malformed credential: not a JSON object, or a name occurs twice".to_owned(),
        ),
        (claims(r#","nbf":"0""#), missing("nbf")),
        (claims(&format!(r#","nbf":{later}"#)), "the token is not valid yet".to_owned()),
        (valid.replace(&format!("\"iat\":{NOW}"), r#""iat":"x""#), missing("iat")),
        (
            valid.replace("https://id.test", "https://id.test/"),
            "the token is from another issuer".to_owned(),
        ),
        (valid.replace("\"iss\"", "\"is\""), "the token is from another issuer".to_owned()),
        (valid.replace("\"https://id.test\"", "[\"https://id.test\"]"), missing("iss")),
        (valid.replace("\"chat\"", "\"chats\""), "the token is for another audience".to_owned()),
        (valid.replace("\"chat\"", "[[\"chat\"]]"), "the token is for another audience".to_owned()),
        (valid.replace("\"aud\"", "\"au\""), "the token is for another audience".to_owned()),
        (valid.replace("\"anna\"", "\"\""), missing("sub")),
        (valid.replace("\"anna\"", "7"), missing("sub")),
        (
            "[]".to_owned(),
            "malformed credential: not a JSON object, or a name occurs twice".to_owned(),
        ),
    ] {
        assert_eq!(fault(&verifier, &issuer.token(&claims)), expected, "{claims}");
    }
    assert!(
        verifier
            .check_now(&issuer.token(&valid.replace(&exp, &format!("\"exp\":{}.9", NOW + 1))), NOW)
            .is_ok()
    );
}

#[test]
fn a_key_id_selects_the_key() {
    let (one, two) = (Issuer::new(), Issuer::new());
    let jwk = |issuer: &Issuer, id: &str| {
        let raw = issuer.0.public_key_raw();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&raw[1..33]), URL_SAFE_NO_PAD.encode(&raw[33..65]));
        json!({ "kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "alg": "ES256", "x": x, "y": y })
    };
    let set = json!({ "keys": [jwk(&one, "1"), { "kty": "new" }, jwk(&two, "2")] });
    let content = set.to_string().into_bytes().into();
    let keys = KeySource::File { path: "keys.json".into(), content };
    let verifier = JwtVerifier::new(JwtConfig { keys, ..one.config() });
    let token = |issuer: &Issuer, id: &str| {
        issuer.sign(&format!(r#"{{"alg":"ES256","kid":"{id}"}}"#), &claims(""))
    };
    assert!(verifier.check_now(&token(&one, "1"), NOW).is_ok());
    assert!(verifier.check_now(&token(&two, "2"), NOW).is_ok());
    assert!(verifier.check_now(&two.token(&claims("")), NOW).is_ok());
    assert_eq!(fault(&verifier, &token(&one, "2")), "the token's signature is not valid");
    assert_eq!(fault(&verifier, &token(&one, "3")), "no key fits the token");
}

#[test]
fn secrets_verify_tokens() {
    let secret = b"0123456789abcdef0123456789abcdef".to_vec();
    let keys = KeySource::Secrets(
        vec![b"another-secret-of-at-least-32-bytes".to_vec(), secret.clone()].into(),
    );
    let config = JwtConfig { keys, algorithms: vec![Algorithm::HS256], ..Issuer::new().config() };
    assert!(!format!("{config:?}").contains("0123456789"));
    let verifier = JwtVerifier::new(config);
    let sign = |secret: &[u8]| {
        let message = format!("{}.{}", base64(r#"{"alg":"HS256"}"#), base64(&claims("")));
        let key = EncodingKey::from_secret(secret).unwrap();
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    };
    assert!(verifier.check_now(&sign(&secret), NOW).is_ok());
    assert_eq!(fault(&verifier, &sign(b"x")), "the token's signature is not valid");
}
