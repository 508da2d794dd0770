use super::*;
use crate::proxy::testing::{request, response};

fn config() -> CacheConfig {
    CacheConfig { heuristic: 10, ..CacheConfig::default() }
}

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + second)
}

/// The freshness of a response that arrives at second 0, at once.
fn stored(status: u16, fields: &str) -> Option<Freshness> {
    with_request(status, fields, "")
}

fn with_request(status: u16, fields: &str, asked: &str) -> Option<Freshness> {
    let request = request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{asked}"));
    let fields = fields.replace("NOW", &httpdate::fmt_http_date(at(0)));
    let response = response(&format!("HTTP/1.1 {status} X\r\n{fields}"));
    let exchange = CacheExchange { sent: at(0), received: at(0) };
    freshness(&config(), &request, &response, exchange)
}

fn reuse(fields: &str, asked: &str, second: u64) -> Option<StoredReuse> {
    let directives = request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{asked}"));
    let directives = RequestDirectives::of(&directives.head);
    stored(200, fields).map(|freshness| freshness.reuse(&directives, at(second)))
}

#[test]
fn a_response_is_fresh_for_its_lifetime() {
    for (fields, second, expected) in [
        ("Cache-Control: max-age=10\r\n", 9, StoredReuse::Fresh),
        ("Cache-Control: max-age=10\r\n", 10, StoredReuse::Validate),
        ("Cache-Control: max-age=10\r\nAge: 5\r\n", 5, StoredReuse::Validate),
        ("Cache-Control: max-age=10\r\nExpires: 0\r\n", 9, StoredReuse::Fresh),
        ("Cache-Control: no-cache, max-age=10\r\nETag: \"a\"\r\n", 0, StoredReuse::Validate),
        (
            "Cache-Control: max-age=10, stale-while-revalidate=5\r\n",
            14,
            StoredReuse::WhileRevalidating,
        ),
        (
            "Cache-Control: s-maxage=10, stale-while-revalidate=5\r\n",
            14,
            StoredReuse::WhileRevalidating,
        ),
        ("Cache-Control: max-age=10, stale-while-revalidate=5\r\n", 15, StoredReuse::Validate),
        (
            "Cache-Control: max-age=10, must-revalidate, stale-while-revalidate=5\r\n",
            12,
            StoredReuse::Validate,
        ),
    ] {
        assert_eq!(reuse(fields, "", second), Some(expected), "{fields} after {second} s");
    }
}

#[test]
fn an_age_that_is_not_one_number_makes_a_response_stale() {
    for age in ["x", "-1", "1.5", "0, old", "old, 0", "0, 0", "0;x=1", ""] {
        let fields = format!("Cache-Control: max-age=3600\r\nETag: \"a\"\r\nAge: {age}\r\n");
        assert_eq!(reuse(&fields, "", 0), Some(StoredReuse::Validate), "{age}");
    }
    let twice = "Cache-Control: max-age=3600\r\nETag: \"a\"\r\nAge: 0\r\nAge: 0\r\n";
    assert_eq!(reuse(twice, "", 0), Some(StoredReuse::Validate));
}

#[test]
fn an_old_date_counts_as_age() {
    let old = httpdate::fmt_http_date(at(0) - Duration::from_secs(20));
    let fields = format!("Date: {old}\r\nCache-Control: max-age=10\r\nETag: \"a\"\r\n");
    assert_eq!(reuse(&fields, "", 0), Some(StoredReuse::Validate));
    let expires = httpdate::fmt_http_date(at(10));
    let fields = format!("Date: NOW\r\nExpires: {expires}\r\n");
    assert_eq!(reuse(&fields, "", 9), Some(StoredReuse::Fresh));
    assert_eq!(reuse(&fields, "", 10), Some(StoredReuse::Validate));
}

#[test]
fn private_responses_are_not_stored() {
    for fields in [
        "Cache-Control: private, max-age=10\r\n",
        "Cache-Control: no-store, max-age=10\r\n",
        "Cache-Control: max-age=10\r\nSet-Cookie: a=b\r\n",
        "Cache-Control: max-age=10\r\nVary: *\r\n",
        "Cache-Control: max-age=10\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n",
        "",
    ] {
        assert_eq!(stored(200, fields), None, "{fields}");
    }
    assert_eq!(stored(206, "Cache-Control: max-age=10\r\n"), None);
    assert_eq!(stored(599, "Cache-Control: max-age=10, must-understand\r\n"), None);
    assert!(stored(599, "Cache-Control: max-age=10\r\n").is_some());
    let secret = "Authorization: Bearer x\r\n";
    assert_eq!(with_request(200, "Cache-Control: max-age=10\r\n", secret), None);
    assert_eq!(with_request(200, "Cache-Control: s-maxage=10\r\n", secret), None);
    assert!(with_request(200, "Cache-Control: public, max-age=10\r\n", secret).is_some());
}

#[test]
fn a_lifetime_is_estimated_only_for_some_statuses() {
    let changed = httpdate::fmt_http_date(at(0) - Duration::from_secs(1000));
    let fields = format!("Date: NOW\r\nLast-Modified: {changed}\r\n");
    assert_eq!(reuse(&fields, "", 99), Some(StoredReuse::Fresh));
    assert_eq!(reuse(&fields, "", 100), Some(StoredReuse::Validate));
    for status in [201, 202, 403, 502, 503, 504, 599] {
        assert_eq!(stored(status, &fields), None, "{status}");
    }
    let public = format!("Cache-Control: public\r\n{fields}");
    assert!(stored(599, &public).is_some());
}

#[test]
fn a_client_may_ask_for_more_or_less_freshness() {
    let fields = "Cache-Control: max-age=10\r\n";
    for (asked, second, expected) in [
        ("no-cache", 0, StoredReuse::Validate),
        ("max-age=4", 5, StoredReuse::Validate),
        ("max-age=5", 5, StoredReuse::Fresh),
        ("min-fresh=6", 5, StoredReuse::Validate),
        ("max-stale", 500, StoredReuse::Fresh),
        ("max-stale=5", 15, StoredReuse::Fresh),
        ("max-stale=5", 16, StoredReuse::Validate),
    ] {
        let asked = format!("Cache-Control: {asked}\r\n");
        assert_eq!(reuse(fields, &asked, second), Some(expected), "{asked}");
    }
    let shared = reuse("Cache-Control: s-maxage=10\r\n", "Cache-Control: max-stale\r\n", 11);
    assert_eq!(shared, Some(StoredReuse::Validate));
}

#[test]
fn a_stale_response_replaces_an_error_only_if_that_is_allowed() {
    let on_error =
        |fields: &str, second| stored(200, fields).unwrap().may_replace_error(at(second));
    assert!(on_error("Cache-Control: max-age=10, stale-if-error=5\r\n", 14));
    assert!(!on_error("Cache-Control: max-age=10, stale-if-error=5\r\n", 15));
    assert!(!on_error("Cache-Control: max-age=10, must-revalidate, stale-if-error=5\r\n", 11));
    assert!(!on_error("Cache-Control: max-age=10\r\n", 11));
}
