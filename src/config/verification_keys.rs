//! Keys that verify tokens: from PEM, from a JWK set (RFC 7517), or from a secret.
//!
//! The kind of a key decides which algorithms it can verify. A token cannot choose another kind: a public key is never
//! used as a secret.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde_json::Value;

use super::{JWT_ALGORITHMS, fault::InvalidValue};

/// Maximum number of keys in a set.
const MOST_KEYS: usize = 100;

/// Shortest modulus of an RSA key, in bytes (RFC 7518 §3.3).
const SHORTEST_MODULUS: usize = 256;

/// Shortest secret, in bytes (RFC 7518 §3.2).
pub(super) const SHORTEST_SECRET: usize = 32;

/// A key that verifies tokens.
#[derive(Clone, Debug)]
pub(crate) struct VerificationKey {
    /// Its id, which tokens may name.
    pub(crate) id: Option<Box<str>>,
    /// The algorithms that it can verify.
    pub(crate) algorithms: Vec<Algorithm>,
    /// The key itself.
    pub(crate) key: DecodingKey,
}

impl VerificationKey {
    /// Creates a key from a secret.
    pub(crate) fn of_secret(secret: &[u8]) -> Option<Self> {
        let key = DecodingKey::from_secret(secret).ok()?;
        Some(Self { id: None, algorithms: of_family(&key), key })
    }
}

/// Reads the keys of a file: a JWK set, one JWK, or PEM.
///
/// # Errors
/// There is no key that can be used.
pub(crate) fn of_file(content: &[u8]) -> Result<Vec<VerificationKey>, InvalidValue> {
    let wrong = |message: &str| InvalidValue::new(message);
    let help = "write public keys as PEM (`BEGIN PUBLIC KEY`), or a JWK set";
    let text =
        std::str::from_utf8(content).map_err(|_| wrong("the key file is not text").help(help))?;
    if text.trim_start().starts_with('{') {
        let keys = of_set(content, true).map_err(|reason| wrong(&reason).help(help))?;
        return match keys.is_empty() {
            true => Err(wrong("the JWK set has no key that can verify tokens").help(help)),
            false => Ok(keys),
        };
    }
    let blocks = pem_blocks(text);
    let private = blocks.iter().any(|block| block.contains("PRIVATE KEY"));
    if private {
        let message = "the key file has a private key, which a proxy must not have";
        return Err(wrong(message).help("write the public key: `openssl pkey -pubout -in key.pem`"));
    }
    if blocks.is_empty() {
        return Err(wrong("the key file has no PEM block and no JWK set").help(help));
    }
    let keys: Option<Vec<_>> = blocks.iter().map(|block| of_pem(block)).collect();
    keys.filter(|keys| keys.len() <= MOST_KEYS)
        .ok_or_else(|| wrong("the key file has a PEM block that is not a public key").help(help))
}

/// Reads a JWK set or one JWK. Keys of unknown kinds, keys that encrypt, and weak keys are left out. Secrets count only
/// if `secrets` is true.
///
/// # Errors
/// The text is not a JWK set, or it has too many keys.
pub(crate) fn of_set(content: &[u8], secrets: bool) -> Result<Vec<VerificationKey>, String> {
    let set: Value = serde_json::from_slice(content)
        .map_err(|error| format!("the JWK set is not JSON: {error}"))?;
    let keys = match set.get("keys") {
        Some(Value::Array(keys)) => keys.clone(),
        None if set.get("kty").is_some() => vec![set],
        _ => return Err("the JWK set has no `keys`".to_owned()),
    };
    if keys.len() > MOST_KEYS {
        return Err(format!("the JWK set has more than {MOST_KEYS} keys"));
    }
    Ok(keys.into_iter().filter_map(|key| of_jwk(key, secrets)).collect())
}

fn of_jwk(value: Value, secrets: bool) -> Option<VerificationKey> {
    let named = value.get("alg").and_then(Value::as_str).map(str::to_owned);
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let verifies = match &jwk.common.public_key_use {
        None | Some(PublicKeyUse::Signature) => true,
        Some(_) => false,
    };
    let allows = jwk
        .common
        .key_operations
        .as_ref()
        .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    if !verifies || !allows {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let fitting = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve != EllipticCurve::Ed25519 => {
            return None;
        }
        AlgorithmParameters::RSA(rsa) if rsa.n.len() * 3 / 4 < SHORTEST_MODULUS => return None,
        AlgorithmParameters::OctetKey(secret)
            if !secrets || secret.value.len() * 3 / 4 < SHORTEST_SECRET =>
        {
            return None;
        }
        _ => of_family(&key),
    };
    let algorithms: Vec<Algorithm> = match named {
        None => fitting,
        Some(named) => {
            let named = JWT_ALGORITHMS.iter().find(|(name, _)| *name == named);
            named
                .map(|(_, algorithm)| *algorithm)
                .filter(|a| fitting.contains(a))
                .into_iter()
                .collect()
        }
    };
    let id = jwk.common.key_id.map(Into::into);
    (!algorithms.is_empty()).then_some(VerificationKey { id, algorithms, key })
}

fn of_pem(block: &str) -> Option<VerificationKey> {
    let bytes = block.as_bytes();
    let readers = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem];
    let key = readers.into_iter().find_map(|read| read(bytes).ok())?;
    Some(VerificationKey { id: None, algorithms: of_family(&key), key })
}

/// The algorithms of a key's kind.
fn of_family(key: &DecodingKey) -> Vec<Algorithm> {
    key.family().algorithms().to_vec()
}

/// The blocks of a PEM file, each with its borders.
fn pem_blocks(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        let from = &rest[start..];
        let Some(end) = from.find("-----END ") else { break };
        let Some(close) = from[end + 9..].find("-----") else { break };
        let (block, after) = from.split_at(end + 9 + close + 5);
        blocks.push(block);
        rest = after;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","kid":"a","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#;

    #[test]
    fn the_kind_of_a_key_decides_its_algorithms() {
        let set = format!(r#"{{"keys":[{EC}]}}"#);
        let keys = of_set(set.as_bytes(), false).unwrap();
        assert_eq!(keys[0].algorithms, [Algorithm::ES256]);
        assert_eq!(keys[0].id.as_deref(), Some("a"));
        // A key that names an algorithm of another kind verifies nothing.
        let confused = set.replace(r#""kid":"a""#, r#""alg":"HS256""#);
        assert!(of_set(confused.as_bytes(), true).unwrap().is_empty());
        let encrypts = set.replace(r#""kid":"a""#, r#""use":"enc""#);
        assert!(of_set(encrypts.as_bytes(), true).unwrap().is_empty());
    }

    #[test]
    fn secrets_count_only_where_they_are_expected() {
        let secret = "A".repeat(43);
        let set =
            format!(r#"{{"keys":[{{"kty":"oct","k":"{secret}"}},{{"kty":"oct","k":"QQ"}}]}}"#);
        assert_eq!(of_set(set.as_bytes(), true).unwrap().len(), 1);
        assert!(of_set(set.as_bytes(), false).unwrap().is_empty());
    }

    #[test]
    fn a_file_without_a_public_key_gets_advice() {
        for (content, expected) in [
            ("", "no PEM block"),
            ("{}", "no `keys`"),
            (r#"{"keys":[{"kty":"XX"}]}"#, "no key that can verify"),
            ("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", "private key"),
            ("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n", "not a public key"),
        ] {
            let wrong = of_file(content.as_bytes()).unwrap_err();
            assert!(wrong.message.contains(expected), "{content}: {}", wrong.message);
        }
    }
}
