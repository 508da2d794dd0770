//! Errors of a translation.

use std::{fmt, io};

use super::note::Origin;

/// Why a file cannot be translated.
#[derive(Debug)]
pub(super) enum TranslateError {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// A syntax error.
    Syntax {
        /// Position.
        origin: Origin,
        /// Kind of the error.
        kind: SyntaxErrorKind,
    },
    /// No directive of the file leads to a server.
    NoBackend {
        /// The missing directive.
        wanted: &'static str,
    },
}

/// A syntax error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyntaxErrorKind {
    /// A quote that is not closed.
    OpenQuote,
    /// A `{` that is not closed.
    OpenBlock,
    /// A `}` without its `{`.
    StrayBrace,
    /// A directive that does not end with `;`.
    NoSemicolon,
    /// Files that include each other, or blocks in blocks without end.
    TooDeep,
}

impl fmt::Display for SyntaxErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenQuote => "this quote is not closed",
            Self::OpenBlock => "this block is not closed: a `}` is missing",
            Self::StrayBrace => "this brace has no directive",
            Self::NoSemicolon => "this directive does not end with `;`",
            Self::TooDeep => {
                "includes or blocks are nested too deeply; does a file include itself?"
            }
        })
    }
}

impl fmt::Display for TranslateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot read the file: {error}"),
            Self::Syntax { origin, kind } => write!(f, "{origin}: {kind}"),
            Self::NoBackend { wanted } => {
                write!(f, "nothing to translate: the file has no {wanted}")
            }
        }
    }
}

impl std::error::Error for TranslateError {}
