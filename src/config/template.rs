//! Texts with variables, such as `https://{host}{path}`.
//!
//! A text is parsed with the configuration, so that an unknown variable is a fault with its place. `{{` and `}}` stand
//! for braces.

use super::{
    fault::{InvalidValue, quoted},
    schema::nearest,
};

/// Longest text, in bytes.
const LONGEST: usize = 8 << 10;

/// A text with variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<TemplatePiece>,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePiece {
    /// These characters.
    Text(Box<str>),
    /// The value of a variable.
    Variable(Variable),
    /// The claim of a token with this name or path.
    Claim(Box<str>),
}

/// A variable: a fact about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// Address of the client, without port.
    ClientIp,
    /// Requested host, without port.
    Host,
    /// Request method.
    Method,
    /// Path as the client sent it.
    Path,
    /// Query with its `?`; empty if there is none.
    Query,
    /// `https` or `http`, as the client sees it.
    Scheme,
    /// Id of the request.
    RequestId,
    /// Version of TLS; empty without TLS.
    TlsVersion,
    /// Server name that the client requested by TLS.
    TlsServerName,
    /// Subject of the client's certificate.
    CertificateSubject,
    /// Fingerprint of the client's certificate.
    CertificateFingerprint,
    /// Hash of the Engine.IO session id, which does not allow use of the session.
    SidHash,
    /// Subject of the authenticated client.
    Subject,
    /// Client of the API key.
    ApiKey,
}

/// What stands before the name of a claim.
const CLAIM: &str = "jwt.";

const VARIABLES: [(&str, Variable); 14] = [
    ("client_ip", Variable::ClientIp),
    ("host", Variable::Host),
    ("method", Variable::Method),
    ("path", Variable::Path),
    ("query", Variable::Query),
    ("scheme", Variable::Scheme),
    ("request_id", Variable::RequestId),
    ("tls_version", Variable::TlsVersion),
    ("tls_server_name", Variable::TlsServerName),
    ("certificate_subject", Variable::CertificateSubject),
    ("certificate_fingerprint", Variable::CertificateFingerprint),
    ("sid_hash", Variable::SidHash),
    ("subject", Variable::Subject),
    ("api_key", Variable::ApiKey),
];

impl Template {
    /// Parses a text.
    ///
    /// # Errors
    /// An unknown variable, an unpaired brace, or a text that is too long.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.len() > LONGEST {
            let wrong = InvalidValue::new(format!("longer than {LONGEST} bytes"));
            return Err(wrong.help("write a shorter text"));
        }
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if after.starts_with(brace) {
                plain.push_str(brace);
                rest = &after[1..];
                continue;
            }
            let variable = after.split_once('}').filter(|_| brace == "{");
            let Some((name, after)) = variable else {
                let wrong =
                    InvalidValue::new(format!("unpaired {} in {}", quoted(brace), quoted(text)));
                return Err(wrong.help(format!("write {brace}{brace} for the character itself")));
            };
            if !plain.is_empty() {
                pieces.push(TemplatePiece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(match name.strip_prefix(CLAIM).filter(|claim| !claim.is_empty()) {
                Some(claim) => TemplatePiece::Claim(claim.into()),
                None => TemplatePiece::Variable(variable_named(name)?),
            });
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(TemplatePiece::Text(plain.into()));
        }
        Ok(Self { pieces })
    }

    /// Returns the parts in order.
    pub fn pieces(&self) -> &[TemplatePiece] {
        &self.pieces
    }

    /// Returns the text as it is written in a file.
    pub fn source(&self) -> String {
        let mut source = String::new();
        for piece in &self.pieces {
            match piece {
                TemplatePiece::Text(text) => {
                    source.push_str(&text.replace('{', "{{").replace('}', "}}"));
                }
                TemplatePiece::Variable(variable) => {
                    source.extend(["{", variable.name(), "}"]);
                }
                TemplatePiece::Claim(claim) => source.extend(["{", CLAIM, claim, "}"]),
            }
        }
        source
    }
}

impl Variable {
    /// Returns the name.
    pub fn name(self) -> &'static str {
        let named = VARIABLES.iter().find(|(_, variable)| *variable == self);
        named.map_or("", |(name, _)| name)
    }

    /// Returns the names of all variables.
    pub fn names() -> impl Iterator<Item = &'static str> {
        VARIABLES.iter().map(|(name, _)| *name)
    }
}

fn variable_named(name: &str) -> Result<Variable, InvalidValue> {
    if let Some((_, variable)) = VARIABLES.iter().find(|(known, _)| *known == name) {
        return Ok(*variable);
    }
    let wrong = InvalidValue::new(format!("there is no variable {}", quoted(name)));
    Err(match nearest(name, Variable::names()) {
        Some(near) => wrong.help(format!("did you mean {{{near}}}?")),
        None => {
            let all: Vec<String> = Variable::names().map(|name| format!("{{{name}}}")).collect();
            wrong.help(format!("the variables are {}", all.join(", ")))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_at_its_variables() {
        let template = Template::parse("https://{host}{path}{{x}}").unwrap();
        assert_eq!(
            template.pieces(),
            [
                TemplatePiece::Text("https://".into()),
                TemplatePiece::Variable(Variable::Host),
                TemplatePiece::Variable(Variable::Path),
                TemplatePiece::Text("{x}".into()),
            ]
        );
        assert_eq!(template.source(), "https://{host}{path}{{x}}");
        let claim = Template::parse("{jwt.realm.role}").unwrap();
        assert_eq!(claim.pieces(), [TemplatePiece::Claim("realm.role".into())]);
        assert_eq!(claim.source(), "{jwt.realm.role}");
        assert_eq!(Template::parse("").unwrap().pieces(), []);
    }

    #[test]
    fn a_wrong_variable_gets_advice() {
        let help = |text: &str| Template::parse(text).unwrap_err().help.unwrap();
        assert_eq!(help("{hots}"), "did you mean {host}?");
        assert!(help("{xyzzy}").starts_with("the variables are {client_ip}, {host}"));
        assert_eq!(help("a}b"), "write }} for the character itself");
        assert_eq!(help("a{b"), "write {{ for the character itself");
        assert_eq!(help("{}"), help("{xyzzy}"));
        assert!(Template::parse(&"x".repeat(LONGEST + 1)).is_err());
    }
}
