//! The grammar of nginx's configuration: words, `;`, blocks, quotes, comments and includes.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use super::super::{
    error::{SyntaxErrorKind, TranslateError},
    files::{SourceFiles, has_wildcard},
    note::{Origin, SourceName},
};

/// Maximum depth of nested blocks and includes.
const MAX_DEPTH: usize = 32;

/// Maximum number of files.
const MAX_FILES: usize = 1_000;

/// A directive: a name, arguments, and a block if it has one.
#[derive(Debug)]
pub(in super::super) struct Directive {
    /// The first word.
    pub(in super::super) name: String,
    /// The other words, without quotes.
    pub(in super::super) args: Vec<String>,
    /// The directives between braces; `None`: the directive ends with `;`.
    pub(in super::super) block: Option<Vec<Directive>>,
    /// Position of the first word.
    pub(in super::super) origin: Origin,
    /// Whether the translation has used or reported the directive.
    pub(in super::super) handled: Cell<bool>,
}

impl Directive {
    /// The argument at `index`, or an empty text.
    pub(in super::super) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// The directives of the block; empty without a block.
    pub(in super::super) fn children(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// The directive in one line.
    pub(in super::super) fn text(&self) -> String {
        let quoted = |word: &String| match word.is_empty() || word.contains([' ', ';', '{']) {
            true => format!("\"{word}\""),
            false => word.clone(),
        };
        let mut text = self.name.clone();
        for word in &self.args {
            text.push(' ');
            text.push_str(&quoted(word));
        }
        if self.block.is_some() {
            text.push_str(" {…}");
        }
        text
    }

    /// Marks the directive as translated.
    pub(in super::super) fn take(&self) -> &Self {
        self.handled.set(true);
        self
    }

    /// Marks the directive and everything in its block as translated or reported.
    pub(in super::super) fn take_all(&self) {
        self.handled.set(true);
        self.children().iter().for_each(Self::take_all);
    }
}

/// The directives of a file and of the files that it includes.
///
/// # Errors
/// The file cannot be read, or a text does not follow the grammar. An include that cannot be read
/// stays a directive.
pub(super) fn parse(
    path: &Path,
    files: &SourceFiles<'_>,
) -> Result<Vec<Directive>, TranslateError> {
    let text = (files.read)(path).map_err(TranslateError::Unreadable)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut includes = Includes { files, folder, count: 0 };
    includes.parse(path, &text, 0)
}

/// The state of reading several files.
struct Includes<'f> {
    files: &'f SourceFiles<'f>,
    /// The folder of the first file: nginx resolves relative paths from there.
    folder: &'f Path,
    /// Files so far.
    count: usize,
}

impl Includes<'_> {
    fn parse(
        &mut self,
        path: &Path,
        text: &str,
        depth: usize,
    ) -> Result<Vec<Directive>, TranslateError> {
        let order = self.count;
        self.count += 1;
        let origin = Origin { order, file: SourceName::new(path, self.folder), line: 1 };
        let mut lexer = Lexer { rest: text, line: 1, origin };
        let directives = self.block(&mut lexer, None, depth)?;
        Ok(directives)
    }

    /// The directives up to the end of the block that began at `open`, or of the file.
    fn block(
        &mut self,
        lexer: &mut Lexer<'_>,
        open: Option<Origin>,
        depth: usize,
    ) -> Result<Vec<Directive>, TranslateError> {
        if depth > MAX_DEPTH {
            return Err(lexer.error(SyntaxErrorKind::TooDeep));
        }
        let mut directives = Vec::new();
        let mut words: Vec<String> = Vec::new();
        let mut start = lexer.here();
        loop {
            let token = lexer.next()?;
            if words.is_empty() {
                start = lexer.here();
            }
            match token {
                NginxToken::Word(word) => words.push(word),
                NginxToken::Semicolon if words.is_empty() => {}
                NginxToken::Semicolon => {
                    let directive = directive(&mut words, None, start.clone());
                    self.add(directive, &mut directives, depth)?;
                }
                NginxToken::Open if words.is_empty() => {
                    return Err(lexer.error(SyntaxErrorKind::StrayBrace));
                }
                NginxToken::Open if words[0].ends_with("_by_lua_block") => {
                    lexer.skip_braces(&start)?;
                    directives.push(directive(&mut words, Some(Vec::new()), start.clone()));
                }
                NginxToken::Open => {
                    let block = self.block(lexer, Some(start.clone()), depth + 1)?;
                    directives.push(directive(&mut words, Some(block), start.clone()));
                }
                NginxToken::Close if !words.is_empty() => {
                    let kind = SyntaxErrorKind::NoSemicolon;
                    return Err(TranslateError::Syntax { origin: start, kind });
                }
                NginxToken::Close if open.is_some() => return Ok(directives),
                NginxToken::Close => return Err(lexer.error(SyntaxErrorKind::StrayBrace)),
                NginxToken::End => {
                    return match (words.is_empty(), open) {
                        (false, _) => {
                            let kind = SyntaxErrorKind::NoSemicolon;
                            Err(TranslateError::Syntax { origin: start, kind })
                        }
                        (true, Some(origin)) => {
                            let kind = SyntaxErrorKind::OpenBlock;
                            Err(TranslateError::Syntax { origin, kind })
                        }
                        (true, None) => Ok(directives),
                    };
                }
            }
        }
    }

    /// Adds a directive; for an include, also the directives of the included files.
    fn add(
        &mut self,
        directive: Directive,
        directives: &mut Vec<Directive>,
        depth: usize,
    ) -> Result<(), TranslateError> {
        if directive.name != "include" || directive.args.len() != 1 {
            directives.push(directive);
            return Ok(());
        }
        if depth >= MAX_DEPTH || self.count >= MAX_FILES {
            let kind = SyntaxErrorKind::TooDeep;
            return Err(TranslateError::Syntax { origin: directive.origin, kind });
        }
        let pattern = self.folder.join(directive.arg(0));
        let mut included = Vec::new();
        let mut complete = true;
        for path in self.files.matching(&pattern) {
            match (self.files.read)(&path) {
                Ok(text) => included.extend(self.parse(&path, &text, depth + 1)?),
                Err(_) => complete = false,
            }
        }
        // An include with a wildcard may match nothing.
        directive.handled.set(complete && !(included.is_empty() && has_wildcard(directive.arg(0))));
        directives.push(directive);
        directives.append(&mut included);
        Ok(())
    }
}

fn directive(words: &mut Vec<String>, block: Option<Vec<Directive>>, origin: Origin) -> Directive {
    let mut words = std::mem::take(words).into_iter();
    let name = words.next().unwrap_or_default();
    Directive { name, args: words.collect(), block, origin, handled: Cell::new(false) }
}

/// A token.
#[derive(Debug, PartialEq)]
enum NginxToken {
    Word(String),
    Semicolon,
    Open,
    Close,
    End,
}

/// Splits a text into tokens.
struct Lexer<'t> {
    rest: &'t str,
    line: usize,
    origin: Origin,
}

impl Lexer<'_> {
    fn here(&self) -> Origin {
        Origin { line: self.line, ..self.origin.clone() }
    }

    fn error(&self, kind: SyntaxErrorKind) -> TranslateError {
        TranslateError::Syntax { origin: self.here(), kind }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn advance(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.rest = &self.rest[char.len_utf8()..];
        if char == '\n' {
            self.line += 1;
        }
        Some(char)
    }

    /// The next token. Comments and whitespace before it are skipped.
    fn next(&mut self) -> Result<NginxToken, TranslateError> {
        loop {
            match self.peek() {
                None => return Ok(NginxToken::End),
                Some('#') => {
                    while self.peek().is_some_and(|char| char != '\n') {
                        self.advance();
                    }
                }
                Some(char) if char.is_whitespace() || char == '\u{feff}' => {
                    self.advance();
                }
                Some(_) => break,
            }
        }
        match self.peek() {
            Some(';') => self.advance().map_or(Ok(NginxToken::End), |_| Ok(NginxToken::Semicolon)),
            Some('{') => self.advance().map_or(Ok(NginxToken::End), |_| Ok(NginxToken::Open)),
            Some('}') => self.advance().map_or(Ok(NginxToken::End), |_| Ok(NginxToken::Close)),
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            _ => Ok(self.word()),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<NginxToken, TranslateError> {
        let start = self.here();
        self.advance();
        let mut word = String::new();
        while let Some(char) = self.advance() {
            match char {
                '\\' => self.escaped(&mut word),
                char if char == quote => return Ok(NginxToken::Word(word)),
                char => word.push(char),
            }
        }
        Err(TranslateError::Syntax { origin: start, kind: SyntaxErrorKind::OpenQuote })
    }

    fn word(&mut self) -> NginxToken {
        let mut word = String::new();
        while let Some(char) = self.peek() {
            match char {
                // A variable in braces: `${name}`.
                '{' if word.ends_with('$') => word.push(char),
                ';' | '{' => break,
                '}' if !word.contains("${") || word.ends_with('}') => break,
                char if char.is_whitespace() => break,
                '\\' => {
                    self.advance();
                    self.escaped(&mut word);
                    continue;
                }
                char => word.push(char),
            }
            self.advance();
        }
        NginxToken::Word(word)
    }

    /// Reads the character after a backslash. Only quotes, backslashes and some letters are escapes; before
    /// other characters, as in a regular expression, the backslash is kept.
    fn escaped(&mut self, word: &mut String) {
        match self.advance() {
            Some(char @ ('"' | '\'' | '\\')) => word.push(char),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(char) => word.extend(['\\', char]),
            None => word.push('\\'),
        }
    }

    /// Skips a block of another language, whose `{` was read.
    fn skip_braces(&mut self, start: &Origin) -> Result<(), TranslateError> {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.advance() {
                Some('{') => depth += 1,
                Some('}') => depth -= 1,
                Some(_) => {}
                None => {
                    let kind = SyntaxErrorKind::OpenBlock;
                    return Err(TranslateError::Syntax { origin: start.clone(), kind });
                }
            }
        }
        Ok(())
    }
}

/// A path in the configuration: relative ones start at the folder of the first file.
pub(super) fn resolved(folder: &Path, path: &str) -> PathBuf {
    folder.join(path)
}

#[cfg(test)]
mod tests;
