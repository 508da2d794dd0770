use std::{net::IpAddr, time::Duration};

use super::*;
use crate::{
    config::{LimitFields, LimitKey, Quota, Rate},
    gateway::variables::tests::facts,
    proxy::testing::request,
};

fn config() -> LimitConfig {
    LimitConfig {
        scope: "test".to_owned(),
        name: "requests".to_owned(),
        key: LimitKey::Client,
        what: Counted::Requests,
        rate: None,
        burst: 1,
        concurrent: None,
        tunnels: None,
        quota: None,
        ipv6_prefix: 64,
        max_keys: 1024,
        fields: LimitFields::Always,
    }
}

fn rate(times: u32, burst: u32) -> LimitConfig {
    let rate = Rate { times, per: Duration::from_secs(3600) };
    LimitConfig { rate: Some(rate), burst, ..config() }
}

fn limiter(config: LimitConfig) -> Arc<Limiter> {
    Arc::new(Limiter::new(config))
}

fn client(number: u32) -> IpAddr {
    IpAddr::from(number.to_be_bytes())
}

/// Why a request of this client is refused; `None`: it is within the limit.
fn refused(limiter: &Arc<Limiter>, client: IpAddr) -> Option<FailureKind> {
    let request = request("GET / HTTP/1.1\r\n");
    let facts = FilterFacts { client, ..facts() };
    limiter.admit(&request, &facts).err().map(|denied| denied.error.kind)
}

#[test]
fn a_flood_of_new_keys_neither_grows_nor_resets_a_busy_one() {
    let limiter = limiter(rate(10, 5));
    let busy = client(7);
    for _ in 0..5 {
        assert_eq!(refused(&limiter, busy), None);
    }
    assert_eq!(refused(&limiter, busy), Some(FailureKind::RateLimited));
    for number in 1000..200_000 {
        refused(&limiter, client(number));
    }
    assert_eq!(refused(&limiter, busy), Some(FailureKind::RateLimited));
    let (keys, bytes) = limiter.table.size();
    assert!(keys <= 1024 && bytes <= 1024 * 32 + 64 * 32, "{keys} keys in {bytes} bytes");
    for number in 200_000..300_000 {
        refused(&limiter, client(number));
    }
    assert_eq!(limiter.table.size(), (keys, bytes));
}

#[test]
fn keys_with_open_requests_are_never_forgotten() {
    let limiter = limiter(LimitConfig { concurrent: Some(1), max_keys: 16, ..config() });
    let head = request("GET / HTTP/1.1\r\n");
    let admit = |number| {
        limiter.admit(&head, &FilterFacts { client: client(number), ..facts() }).map_err(drop)
    };
    let open: Vec<Admitted> = (0..100).map(|number| admit(number).unwrap()).collect();
    assert!((0..100).all(|number| admit(number).is_err()));
    assert_eq!(limiter.table.size().0, 100);
    drop(open);
    assert!((0..100).all(|number| admit(number).is_ok()));
    assert_eq!(limiter.table.size().0, 16);
}

#[test]
fn a_quota_ends_with_its_period_and_not_with_a_clock_set_back() {
    let quota = Some(Quota { times: 2, period: 3600 });
    let limiter = limiter(LimitConfig { quota, ..config() });
    let asks = Asks { counts: true, tunnel: false };
    let mut state = KeyState::default();
    let mut decide = |unix| {
        let now = Now { nanos: 0, unix, period: 3600 };
        limiter.decide(&mut state, asks, now).0.err().map(|used_up| (used_up.kind, used_up.wait))
    };
    assert_eq!((decide(36_000), decide(36_010)), (None, None));
    assert_eq!(decide(36_600), Some((FailureKind::QuotaUsed, 3000)));
    assert_eq!(decide(35_999), Some((FailureKind::QuotaUsed, 1)));
    assert_eq!(decide(39_600), None);
}

#[test]
fn a_request_that_one_part_refuses_takes_nothing_from_the_others() {
    let quota = Some(Quota { times: 10, period: 86_400 });
    let limiter = limiter(LimitConfig { quota, concurrent: Some(5), ..rate(1, 1) });
    let busy = client(1);
    assert_eq!(refused(&limiter, busy), None);
    for _ in 0..20 {
        assert_eq!(refused(&limiter, busy), Some(FailureKind::RateLimited));
    }
    let key = keys::of(
        &limiter.config,
        &limiter.hasher,
        &request("GET / HTTP/1.1\r\n"),
        &FilterFacts { client: busy, ..facts() },
    );
    let state = limiter.table.peek(key);
    assert_eq!((state.used, state.in_flight), (1, 0));
}

#[test]
fn a_preview_counts_nothing() {
    let limiter = limiter(LimitConfig { concurrent: Some(1), ..rate(1, 1) });
    let head = request("GET / HTTP/1.1\r\n");
    let preview = FilterFacts { preview: true, ..facts() };
    for _ in 0..3 {
        assert!(limiter.admit(&head, &preview).is_ok());
    }
    assert!(limiter.admit(&head, &facts()).is_ok());
    assert!(limiter.admit(&head, &preview).is_err());
}

#[test]
fn an_equal_limit_keeps_its_counters() {
    let limiters = Limiters::default();
    let first = limiters.of(&config());
    assert!(Arc::ptr_eq(&first, &limiters.of(&config())));
    let other = LimitConfig { scope: "other".to_owned(), ..config() };
    assert!(!Arc::ptr_eq(&first, &limiters.of(&other)));
    drop(first);
    limiters.of(&config());
    assert!(limiters.0.lock().unwrap().len() <= 2);
}

#[test]
fn the_fields_are_lists_of_policies() {
    let quota = Some(Quota { times: 100, period: 86_400 });
    let limiter = limiter(LimitConfig { quota, concurrent: Some(5), ..rate(3600, 20) });
    let left = PolicyState { rate: Some((19, 1)), quota: Some((99, 4000)), concurrent: Some(4) };
    let report = limiter.report(left, false).unwrap();
    let mut head = moorline_http::ResponseHead::new(http::StatusCode::OK);
    LimitReport::write(&[report], &mut head.head);
    let field = |name| String::from_utf8(head.head.named(name).next().unwrap().to_vec()).unwrap();
    assert_eq!(
        field("ratelimit-policy"),
        "\"requests\";q=20;w=20, \"requests-daily\";q=100;w=86400, \
         \"requests-concurrent\";q=5;qu=\"concurrent-requests\""
    );
    assert_eq!(
        field("ratelimit"),
        "\"requests\";r=19;t=1, \"requests-daily\";r=99;t=4000, \"requests-concurrent\";r=4"
    );
}
