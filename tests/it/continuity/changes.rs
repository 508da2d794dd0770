//! Changes that concern nobody who is moored: reloads, edits elsewhere, certificates, new binaries.

use std::time::Duration;

use super::site::{Site, Text};

/// The same configuration, again and again, by signal and by the admin API. Time: the longest of them.
pub(super) async fn equivalent_reloads(site: &mut Site) -> Duration {
    let mut longest = Duration::ZERO;
    for number in 0..100 {
        let took = match number % 10 {
            0 => site.reload_by_command().await,
            _ => site.reload(&Text::default()).await,
        };
        longest = longest.max(took);
    }
    longest
}

/// Edits of everything but the lists. Time: the longest of them.
pub(super) async fn edits_elsewhere(site: &mut Site) -> Duration {
    let mut longest = Duration::ZERO;
    for number in 0..19 {
        longest = longest.max(site.reload(&edit(number)).await);
    }
    // As it was: the last edit.
    longest.max(site.reload(&Text::default()).await)
}

/// The files replaced in place. Time: until new handshakes meet the new one.
pub(super) async fn certificate_renewal(site: &mut Site) -> Duration {
    site.renew().await
}

/// Five processes, each the successor of the one before. Time: the longest until one serves.
pub(super) async fn binary_upgrades(site: &mut Site) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        longest = longest.max(site.upgrade().await);
    }
    longest
}

fn edit(number: u32) -> Text {
    let mut text = Text::default();
    match number % 6 {
        0 => text.top = format!("# edit {number}"),
        1 => {
            text.tables = format!(
                "[pools.other]\nbackends = [\"127.0.0.1:9\"]\n\
                 [[routes]]\nhost = \"other-{number}.test\"\npool = \"other\"\n"
            );
        }
        2 => {
            let seconds = 60 + number;
            text.pools = format!("timeouts = {{ response_header = \"{seconds}s\" }}");
        }
        3 => {
            text.tables =
                "[listeners.third]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n".to_owned();
        }
        4 => text.pools = "balance = \"round-robin\"".to_owned(),
        _ => text.pools = "sticky = { cookie = false }".to_owned(),
    }
    text
}
