//! The cookies of logins: names, attributes, and parts.
//!
//! A name has a hash of what determines the content of its cookie. Routes with the same provider, client, scopes and claims
//! share a login; others have another cookie. The same facts are the context of the seal, so that a cookie cannot be moved
//! to another name.

use moorline_http::{FieldId, Head};
use xxhash_rust::xxh3::xxh3_64;

use super::pending::LONGEST_LOGIN;
use crate::{
    auth::token::{cookies, only},
    config::OidcConfig,
    sticky,
};

/// Beginning of all names.
const PREFIX: &str = "moorline-login-";

/// Beginning of the name of a cookie that only this host can set, over TLS (RFC 6265bis, section 4.1.3.2).
const HOST_PREFIX: &str = "__Host-";

/// Longest value of a cookie. Browsers drop cookies with more than 4096 bytes, name and attributes included.
const LONGEST_PART: usize = 3800;

/// Maximum number of cookies of one login.
const MOST_PARTS: usize = 3;

/// The names of the cookies of one configuration.
#[derive(Debug)]
pub(super) struct CookieNames {
    /// Name of the cookie of a login.
    session: String,
    /// Name of the cookie of a browser that logs in.
    secret: String,
    /// What determines the content.
    context: Box<[u8]>,
}

impl CookieNames {
    pub(super) fn of(config: &OidcConfig) -> Self {
        let OidcConfig { issuer, client_id, scopes, claims, .. } = config;
        let sorted = |texts: &[String]| {
            let mut texts = texts.to_vec();
            texts.sort_unstable();
            texts.join(" ")
        };
        // No two configurations have the same text: none of these has a line break, and no scope or claim a space.
        let context = [&**issuer, client_id, &sorted(scopes), &sorted(claims)].join("\n");
        let session = format!("{PREFIX}{:016x}", xxh3_64(context.as_bytes()));
        let secret = format!("{session}-new");
        Self { session, secret, context: context.into_bytes().into() }
    }

    /// Context of the seal of a login.
    pub(super) fn session_context(&self, secure: bool) -> Vec<u8> {
        self.sealed_as("session", secure)
    }

    /// Context of the seal of a browser's secret.
    pub(super) fn secret_context(&self, secure: bool) -> Vec<u8> {
        self.sealed_as("secret", secure)
    }

    /// Context of the seal of `state`.
    pub(super) fn state_context(&self) -> Vec<u8> {
        self.sealed_as("state", false)
    }

    /// A cookie of http is not valid for https: others could have set it.
    fn sealed_as(&self, what: &str, secure: bool) -> Vec<u8> {
        let kind = format!("{what}{}\n", if secure { " over TLS" } else { "" });
        [kind.as_bytes(), &self.context].concat()
    }

    pub(super) fn secret_value<'h>(&self, head: &'h Head, secure: bool) -> Option<&'h str> {
        value(head, &full(&self.secret, secure))
    }

    /// The sealed login, from all its parts. The first one begins with their number.
    pub(super) fn session_value(&self, head: &Head, secure: bool) -> Option<String> {
        let name = full(&self.session, secure);
        let (count, first) = value(head, &name)?.split_once('.')?;
        let count: usize = count.parse().ok().filter(|count| (1..=MOST_PARTS).contains(count))?;
        let mut whole = first.to_owned();
        for part in 2..=count {
            whole.push_str(value(head, &part_name(&name, part))?);
        }
        Some(whole)
    }

    /// The greatest number of a part that the browser has.
    pub(super) fn session_parts(&self, head: &Head, secure: bool) -> usize {
        let name = full(&self.session, secure);
        let has = |part: &usize| cookies(head, &part_name(&name, *part)).next().is_some();
        (1..=MOST_PARTS).rev().find(has).unwrap_or_default()
    }

    pub(super) fn set_secret(&self, sealed: &str, secure: bool) -> String {
        set(&full(&self.secret, secure), sealed, LONGEST_LOGIN, secure)
    }

    /// Sets the cookies of a login, and removes what is left of an earlier one with more parts. `None`: it is too large.
    pub(super) fn set_session(
        &self,
        sealed: &str,
        lifetime: u64,
        secure: bool,
        before: usize,
    ) -> Option<Vec<String>> {
        // Sealed contents are ASCII.
        let parts: Vec<&str> = sealed
            .as_bytes()
            .chunks(LONGEST_PART)
            .map(|part| std::str::from_utf8(part).unwrap_or_default())
            .collect();
        if parts.len() > MOST_PARTS {
            return None;
        }
        let (name, count) = (full(&self.session, secure), parts.len());
        let part = |(at, text): (usize, &&str)| match at {
            0 => set(&name, &format!("{count}.{text}"), lifetime, secure),
            _ => set(&part_name(&name, at + 1), text, lifetime, secure),
        };
        let rest = (count + 1..=before).map(|part| set(&part_name(&name, part), "", 0, secure));
        Some(parts.iter().enumerate().map(part).chain(rest).collect())
    }

    /// Removes all cookies that the browser has.
    pub(super) fn clear(&self, head: &Head, secure: bool) -> Vec<String> {
        let name = full(&self.session, secure);
        let parts = (1..=MOST_PARTS).map(|part| part_name(&name, part));
        let all = parts.chain([full(&self.secret, secure)]);
        let theirs = all.filter(|name| cookies(head, name).next().is_some());
        theirs.map(|name| set(&name, "", 0, secure)).collect()
    }
}

/// Removes the cookies of all logins from a request: a copy of a cookie is enough to use its login.
pub(super) fn strip(head: &mut Head) {
    let is_ours = |name: &[u8], _: &str| {
        let name = name.strip_prefix(HOST_PREFIX.as_bytes()).unwrap_or(name);
        name.starts_with(PREFIX.as_bytes())
    };
    let has_ours =
        |field: &[u8]| field.windows(PREFIX.len()).any(|window| window == PREFIX.as_bytes());
    if !head.all(FieldId::Cookie).any(has_ours) {
        return;
    }
    sticky::cookie::strip_all(head, is_ours);
}

fn full(name: &str, secure: bool) -> String {
    format!("{}{name}", if secure { HOST_PREFIX } else { "" })
}

fn part_name(name: &str, part: usize) -> String {
    if part == 1 { name.to_owned() } else { format!("{name}-{part}") }
}

/// The value of the only cookie with this name.
fn value<'h>(head: &'h Head, name: &str) -> Option<&'h str> {
    std::str::from_utf8(only(cookies(head, name)).ok()??).ok()
}

fn set(name: &str, value: &str, lifetime: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={lifetime}; HttpOnly; SameSite=Lax{secure}")
}
