//! Why a message is rejected: a closed list, each fault with a sentence for the client or the log.

use std::fmt;

/// Why a head is rejected. The text is a sentence that a client can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadFault {
    /// The bytes begin a TLS handshake.
    Tls,
    /// The bytes are the connection preface of HTTP/2 (RFC 9113 §3.4).
    Http2Preface,
    /// The bytes begin a PROXY header.
    ProxyHeader,
    /// The first line does not begin with a method.
    Method,
    /// The target holds a space.
    TargetSpace,
    /// The target holds a control character, a `#`, or bytes that are not UTF-8.
    TargetCharacter,
    /// The first line does not fit into the limit.
    TargetTooLong,
    /// The version is neither 1.1 nor 1.0.
    Version,
    /// The first line of a response is not a status line.
    StatusLine,
    /// A line does not end with CRLF.
    LineEnd,
    /// A field is folded over several lines (RFC 9112 §5.2).
    Folded,
    /// A line has no colon.
    NoColon,
    /// There is a space between a name and its colon (RFC 9112 §5.1).
    SpaceBeforeColon,
    /// A name is empty or not a token.
    Name,
    /// A value holds a control character.
    Value,
    /// The head is larger than the limit.
    TooLarge,
    /// The head has more fields than the limit.
    TooManyFields,
    /// A `Content-Length` is not a number, or above 2^53.
    ContentLength,
    /// Two `Content-Length` fields differ.
    ContentLengths,
    /// Both `Content-Length` and `Transfer-Encoding` are present.
    LengthAndCoding,
    /// A transfer coding other than chunked is present.
    Coding,
    /// `Transfer-Encoding` is not exactly one `chunked`.
    Codings,
    /// `Transfer-Encoding` in a message of HTTP/1.0.
    CodingVersion,
}

impl HeadFault {
    /// Returns the sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Tls => "This port does not use TLS; use http://.",
            Self::Http2Preface => "HTTP/2 is not supported on this port; use HTTP/1.1.",
            Self::ProxyHeader => {
                "The connection begins with a PROXY header; set `proxy_protocol` for this listener."
            }
            Self::Method => "The request line does not begin with a method.",
            Self::TargetSpace => "The request target holds a space.",
            Self::TargetCharacter => {
                "The request target holds a character that must be percent-encoded."
            }
            Self::TargetTooLong => "The request target is too long.",
            Self::Version => "Only HTTP/1.1 and HTTP/1.0 are supported.",
            Self::StatusLine => "The first line is not a status line of HTTP/1.1 or HTTP/1.0.",
            Self::LineEnd => "A header line does not end with CR and LF.",
            Self::Folded => "A header field is folded over several lines.",
            Self::NoColon => "A header line has no colon.",
            Self::SpaceBeforeColon => {
                "There is a space between the name of a header field and its colon."
            }
            Self::Name => "The name of a header field is empty or holds an invalid character.",
            Self::Value => "The value of a header field holds a control character.",
            Self::TooLarge | Self::TooManyFields => {
                "The request header is too large or has too many fields."
            }
            Self::ContentLength => "The Content-Length field is invalid.",
            Self::ContentLengths => "Two Content-Length fields differ.",
            Self::LengthAndCoding => "Both Content-Length and Transfer-Encoding are present.",
            Self::Coding => "Only the chunked transfer coding is supported.",
            Self::Codings => "Chunked must be the only transfer coding.",
            Self::CodingVersion => "Transfer-Encoding is not allowed in HTTP/1.0.",
        }
    }
}

impl fmt::Display for HeadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for HeadFault {}
