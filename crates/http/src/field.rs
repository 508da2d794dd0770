//! Names of header fields that a proxy reads or writes, known by number.

/// Declares the known fields, each with its name in the usual case.
macro_rules! known_fields {
    ($($(#[$doc:meta])* $id:ident = $name:literal,)*) => {
        /// A known header field.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FieldId {
            $(#[doc = concat!("`", $name, "`.")] $(#[$doc])* $id,)*
            /// Any other field.
            Other,
        }

        const KNOWN: &[(FieldId, &str)] = &[$((FieldId::$id, $name),)*];

        /// Each name with what stands before the value.
        const LINE_STARTS: &[&str] = &[$(concat!($name, ": "),)*];
    };
}

known_fields! {
    Accept = "Accept",
    AcceptEncoding = "Accept-Encoding",
    AccessControlAllowCredentials = "Access-Control-Allow-Credentials",
    AccessControlAllowHeaders = "Access-Control-Allow-Headers",
    AccessControlAllowMethods = "Access-Control-Allow-Methods",
    AccessControlAllowOrigin = "Access-Control-Allow-Origin",
    AccessControlMaxAge = "Access-Control-Max-Age",
    AccessControlRequestHeaders = "Access-Control-Request-Headers",
    AccessControlRequestMethod = "Access-Control-Request-Method",
    Allow = "Allow",
    Authorization = "Authorization",
    CacheControl = "Cache-Control",
    Connection = "Connection",
    ContentEncoding = "Content-Encoding",
    ContentLength = "Content-Length",
    ContentSecurityPolicy = "Content-Security-Policy",
    ContentType = "Content-Type",
    Cookie = "Cookie",
    Date = "Date",
    Expect = "Expect",
    Forwarded = "Forwarded",
    Host = "Host",
    Http2Settings = "HTTP2-Settings",
    KeepAlive = "Keep-Alive",
    Location = "Location",
    Origin = "Origin",
    ProxyAuthenticate = "Proxy-Authenticate",
    ProxyAuthorization = "Proxy-Authorization",
    ProxyConnection = "Proxy-Connection",
    RetryAfter = "Retry-After",
    SecFetchSite = "Sec-Fetch-Site",
    SecWebSocketAccept = "Sec-WebSocket-Accept",
    SecWebSocketExtensions = "Sec-WebSocket-Extensions",
    SecWebSocketKey = "Sec-WebSocket-Key",
    SecWebSocketProtocol = "Sec-WebSocket-Protocol",
    SecWebSocketVersion = "Sec-WebSocket-Version",
    SetCookie = "Set-Cookie",
    Te = "TE",
    Trailer = "Trailer",
    TransferEncoding = "Transfer-Encoding",
    Upgrade = "Upgrade",
    UserAgent = "User-Agent",
    Vary = "Vary",
    XContentTypeOptions = "X-Content-Type-Options",
    XForwardedFor = "X-Forwarded-For",
    XForwardedHost = "X-Forwarded-Host",
    XForwardedPort = "X-Forwarded-Port",
    XForwardedProto = "X-Forwarded-Proto",
    XMoorlineHops = "X-Moorline-Hops",
    XRealIp = "X-Real-IP",
    XRequestId = "X-Request-Id",
}

/// Length of the longest known name.
const LONGEST: usize = 32;

// A set of fields is one word, with a bit for other fields.
const _: () = assert!(KNOWN.len() < 64);

/// Known fields by the length of their names; each row ends with [`FieldId::Other`].
static BY_LENGTH: [[FieldId; 6]; LONGEST + 1] = by_length();

const fn by_length() -> [[FieldId; 6]; LONGEST + 1] {
    let mut rows = [[FieldId::Other; 6]; LONGEST + 1];
    let mut at = 0;
    while at < KNOWN.len() {
        let (id, name) = KNOWN[at];
        let row = &mut rows[name.len()];
        let mut free = 0;
        while !matches!(row[free], FieldId::Other) {
            free += 1;
        }
        row[free] = id;
        at += 1;
    }
    rows
}

impl FieldId {
    /// Returns the field with this name, in any case.
    pub fn of(name: &[u8]) -> Self {
        let Some(row) = BY_LENGTH.get(name.len()) else { return Self::Other };
        for id in row {
            if *id == Self::Other {
                break;
            }
            let known = id.name().as_bytes();
            // Names of one length mostly differ in their last letter: most comparisons end here.
            let ends_alike =
                known.last().zip(name.last()).is_some_and(|(a, b)| (a ^ b) & 0xdf == 0);
            if ends_alike && known.eq_ignore_ascii_case(name) {
                return *id;
            }
        }
        Self::Other
    }

    /// Returns the name, a colon and a space; empty for [`FieldId::Other`].
    pub(crate) fn line_start(self) -> &'static str {
        LINE_STARTS.get(self as usize).map_or("", |start| start)
    }

    /// Returns the name in its usual case; empty for [`FieldId::Other`].
    pub fn name(self) -> &'static str {
        KNOWN.get(self as usize).map_or("", |(_, name)| name)
    }

    /// The bit of this field in a set of fields.
    pub(crate) fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// Whether a byte may be part of a token (RFC 9110 §5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

static TOKEN: [bool; 256] = token_table();

const fn token_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let value = byte as u8;
        table[byte] = value.is_ascii_alphanumeric()
            || matches!(
                value,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
}

/// Whether the bytes are a token (RFC 9110 §5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Whether the bytes may be a field value (RFC 9110 §5.5): no control characters except tabs.
pub fn is_value(bytes: &[u8]) -> bool {
    // Without an early exit, so that the compiler can check many bytes at once.
    !bytes
        .iter()
        .fold(false, |bad, byte| bad | ((*byte < 0x20) & (*byte != b'\t')) | (*byte == 0x7f))
}

/// Removes spaces and tabs at both ends.
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for (at, (id, name)) in KNOWN.iter().enumerate() {
            assert_eq!(*id as usize, at);
            assert_eq!(FieldId::of(name.as_bytes()), *id);
            assert_eq!(FieldId::of(name.to_ascii_uppercase().as_bytes()), *id);
            assert_eq!(id.name(), *name);
        }
        for name in ["", "x", "hos", "host ", "x-forwarded-fox", &"x".repeat(200)] {
            assert_eq!(FieldId::of(name.as_bytes()), FieldId::Other, "{name}");
        }
        assert_eq!(FieldId::Other.name(), "");
    }

    #[test]
    fn values_and_tokens_are_recognized() {
        assert!(is_value(b"a\tb \xff") && is_value(b""));
        for bad in [&b"\0"[..], b"a\rb", b"\n", b"\x7f", b"abcdefghijklmnopqrstuvwxyz\x01"] {
            assert!(!is_value(bad), "{bad:?}");
        }
        assert!(
            is_token(b"X-a!~") && !is_token(b"") && !is_token(b"a b") && !is_token("ä".as_bytes())
        );
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b"  "), b"");
    }
}
