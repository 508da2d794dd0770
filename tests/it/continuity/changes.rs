//! Changes that must not affect any session: reloads, unrelated edits, certificates, binary upgrades.

use std::time::Duration;

use super::site::{Site, Variation};

/// Reloads the same configuration 100 times, by signal and by the admin API. Returns the longest time.
pub(super) async fn equivalent_reloads(site: &mut Site) -> Duration {
    let mut longest = Duration::ZERO;
    for number in 0..100 {
        let took = match number % 10 {
            0 => site.reload_by_command().await,
            _ => site.reload(&Variation::default()).await,
        };
        longest = longest.max(took);
    }
    longest
}

/// Edits everything but the backend lists. Returns the longest time.
pub(super) async fn unrelated_edits(site: &mut Site) -> Duration {
    let mut longest = Duration::ZERO;
    for number in 0..19 {
        longest = longest.max(site.reload(&edit(number)).await);
    }
    // The last edit restores the original.
    longest.max(site.reload(&Variation::default()).await)
}

/// Replaces the certificate files. Returns the time until new handshakes use the new certificate.
pub(super) async fn certificate_renewal(site: &mut Site) -> Duration {
    site.renew_certificate().await
}

/// Upgrades the binary five times. Returns the longest time until a new process serves.
pub(super) async fn binary_upgrades(site: &mut Site) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        longest = longest.max(site.upgrade().await);
    }
    longest
}

fn edit(number: u32) -> Variation {
    let mut variation = Variation::default();
    match number % 6 {
        0 => variation.top = format!("# edit {number}"),
        1 => {
            variation.tables = format!(
                "[pools.other]\nbackends = [\"127.0.0.1:9\"]\n\
                 [[routes]]\nhost = \"other-{number}.test\"\npool = \"other\"\n"
            );
        }
        2 => {
            let seconds = 60 + number;
            variation.pools = format!("timeouts = {{ response_header = \"{seconds}s\" }}");
        }
        3 => {
            variation.tables =
                "[listeners.third]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n".to_owned();
        }
        4 => variation.pools = "balance = \"round-robin\"".to_owned(),
        _ => variation.pools = "sticky = { cookie = false }".to_owned(),
    }
    variation
}
