//! What a request is counted by, as a keyed hash.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher},
    net::IpAddr,
};

use moorline_http::{FieldId, RequestHead};

use super::super::variables::FilterFacts;
use crate::{
    auth::{AuthMethod, Identity},
    config::{LimitConfig, LimitKey},
};

/// What the hash is of, so that no value is equal to an address.
const ADDRESS: u8 = 0;
const VALUE: u8 = 1;

/// Returns the key of a request: the hash of the configured value, or of the client's address if the request does not
/// have it. Allocates only for claims.
pub(super) fn of(
    config: &LimitConfig,
    hasher: &RandomState,
    request: &RequestHead,
    facts: &FilterFacts<'_>,
) -> u64 {
    let mut hash = hasher.build_hasher();
    hash.write_u8(VALUE);
    let has_value = match &config.key {
        LimitKey::Route => true,
        LimitKey::Client => false,
        // Every field counts: a client cannot hide one behind another.
        LimitKey::Header(name) => write_all(request.head.named(name), &mut hash),
        LimitKey::Cookie(name) => {
            let fields = request.head.all(FieldId::Cookie);
            write_all(fields.filter_map(|field| cookie(field, name)), &mut hash)
        }
        LimitKey::Subject => {
            let subject = facts.identity.map(|identity| identity.subject.as_bytes());
            write_all(subject.into_iter(), &mut hash)
        }
        LimitKey::ApiKey => {
            let by_key = |identity: &&Identity| identity.method == AuthMethod::ApiKey;
            let client = facts.identity.filter(by_key).map(|identity| identity.subject.as_bytes());
            write_all(client.into_iter(), &mut hash)
        }
        LimitKey::Claim(path) => {
            let text = facts.identity.map(|identity| identity.text(path));
            write_all(text.iter().map(String::as_bytes), &mut hash)
        }
        LimitKey::Query(name) => {
            let value = facts.query.and_then(|query| parameter(query, name));
            value.map(|value| write_decoded(value, &mut hash)).is_some()
        }
    };
    if has_value {
        return hash.finish();
    }
    let mut hash = hasher.build_hasher();
    hash.write_u8(ADDRESS);
    write_address(facts.client, config.ipv6_prefix, &mut hash);
    hash.finish()
}

/// Writes all values that are not empty; false if there is none.
fn write_all<'a>(values: impl Iterator<Item = &'a [u8]>, hash: &mut impl Hasher) -> bool {
    let mut any = false;
    for value in values.filter(|value| !value.is_empty()) {
        any = true;
        hash.write(value);
        hash.write_u8(0);
    }
    any
}

/// Writes a value of a query: `%61` and `a` are one value.
fn write_decoded(value: &str, hash: &mut impl Hasher) {
    percent_encoding::percent_decode_str(value).for_each(|byte| hash.write_u8(byte));
}

/// An IPv4 address, or the network of an IPv6 address.
fn write_address(address: IpAddr, ipv6_prefix: u8, hash: &mut impl Hasher) {
    match address.to_canonical() {
        IpAddr::V4(address) => hash.write(&address.octets()),
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix)).unwrap_or(0);
            hash.write(&(u128::from(address) & mask).to_be_bytes());
        }
    }
}

/// The value of a cookie in a `Cookie` field; of several, the first.
fn cookie<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    field
        .split(|byte| *byte == b';')
        .find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The value of a query parameter; of several, the first. Empty values do not count.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let value = query.split('&').find_map(|pair| {
        let (typed, value) = pair.split_once('=')?;
        let is_it = typed == name
            || typed.contains('%') && percent_encoding::percent_decode_str(typed).eq(name.bytes());
        is_it.then_some(value)
    });
    value.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        assert_eq!(cookie(b"a=1; user=x=y; user=z", "user"), Some(&b"x=y"[..]));
        assert_eq!(cookie(b"xuser=1; userx=2", "user"), None);
        assert_eq!(parameter("a=1&token=x&token=y", "token"), Some("x"));
        assert_eq!(parameter("%74oken=x", "token"), Some("x"));
        assert_eq!((parameter("token=", "token"), parameter("token", "token")), (None, None));
    }

    #[test]
    fn ipv6_addresses_of_a_network_are_one_client() {
        let hasher = RandomState::new();
        let of = |address: &str, prefix| {
            let mut hash = hasher.build_hasher();
            write_address(address.parse().unwrap(), prefix, &mut hash);
            hash.finish()
        };
        assert_eq!(of("2001:db8::1", 64), of("2001:db8::ffff:2", 64));
        assert_ne!(of("2001:db8::1", 64), of("2001:db8:0:1::1", 64));
        assert_eq!(of("2001:db8::1", 48), of("2001:db8:0:1::1", 48));
        assert_ne!(of("2001:db8::1", 128), of("2001:db8::2", 128));
        assert_eq!(of("::ffff:192.0.2.1", 64), of("192.0.2.1", 64));
        assert_ne!(of("::ffff:192.0.2.1", 64), of("192.0.2.2", 64));
    }
}
