//! The time that authentication adds to a request: to verify a token of ES256 with a known key, and to find a token that was
//! verified.

use std::{
    hint::black_box,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use moorline::{
    auth::TokenProbe,
    config::{JwtAlgorithm, JwtConfig, KeySource, TokenPlace},
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

/// A check, and a token that it accepts, with the claims of a usual provider.
fn issued() -> (TokenProbe, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let probe = TokenProbe::new(&JwtConfig {
        keys: KeySource::File {
            path: "keys.pem".into(),
            content: key.public_key_pem().into_bytes().into(),
        },
        algorithms: vec![JwtAlgorithm::ES256],
        issuers: vec!["https://id.example.com".to_owned()],
        audiences: vec!["chat".to_owned()],
        places: vec![TokenPlace::Header],
        leeway: Duration::from_secs(30),
        subject: "sub".to_owned(),
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let claims = format!(
        r#"{{"iss":"https://id.example.com","aud":"chat","sub":"f3b8c1d2-7a54-4e0b-9c1f-2d6e8a905b17","iat":{now},"exp":{},"scope":"openid profile chat","roles":["member","editor"]}}"#,
        now + 3600
    );
    let base64 = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    let message =
        format!("{}.{}", base64(br#"{"alg":"ES256","typ":"JWT"}"#), base64(claims.as_bytes()));
    let der = key.serialize_der();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).expect("a key");
    let signature = signer.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
    let signature = base64(signature.as_ref());
    (probe, format!("{message}.{signature}"))
}

fn tokens(c: &mut Criterion) {
    let (probe, token) = issued();
    assert!(probe.accepts(&token) && !probe.accepts(&token[..token.len() - 4]));
    let mut group = c.benchmark_group("token of ES256");
    group.bench_function("verify", |b| {
        let forget = || probe.forget();
        b.iter_batched(forget, |()| probe.accepts(black_box(&token)), BatchSize::PerIteration);
    });
    assert!(probe.accepts(&token));
    group.bench_function("find a verified one", |b| b.iter(|| probe.accepts(black_box(&token))));
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
