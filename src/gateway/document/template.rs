//! Templates of bodies (MiniJinja). A value is written as JSON, so that no value can end its string.
//!
//! Fuel bounds the time of a template and the memory that it takes: each instruction, each item and each 64 bytes cost.

use std::{
    fmt,
    io::{self, Write},
};

use minijinja::{Environment, context};

use super::{DocumentFacts, DocumentFault, scan::Scanner, values};
use crate::config::filters::{TEMPLATE_NAME, body_template};

/// Fuel of one body: some tens of milliseconds, and 16 MiB.
const FUEL: u64 = 250_000;

/// Largest result, in bytes.
const LARGEST: usize = 4 << 20;

/// A compiled template.
pub(super) struct BodyTemplate(Environment<'static>);

impl BodyTemplate {
    /// Compiles a template; `None` if it is invalid, which the check of the configuration rules out.
    pub(super) fn new(source: &str) -> Option<Self> {
        let mut environment = body_template(source).ok()?;
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(values::format);
        Some(Self(environment))
    }

    /// Writes the body.
    pub(super) fn render(
        &self,
        document: &str,
        facts: &DocumentFacts,
    ) -> Result<Vec<u8>, DocumentFault> {
        let failed = |error: minijinja::Error| {
            let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
            DocumentFault::Template(format!("{line}{detail}"))
        };
        let DocumentFacts { method, host, path, status } = facts;
        let values = context! {
            body => values::parse(document)?,
            method => &**method,
            host => &**host,
            path => &**path,
            status => status,
        };
        let mut out = BoundedOutput(Vec::new());
        let template = self.0.get_template(TEMPLATE_NAME).map_err(failed)?;
        template.render_captured_to(values, &mut out).map_err(failed)?;
        let text = std::str::from_utf8(&out.0).unwrap_or_default();
        let mut scanner = Scanner::new(text);
        let is_json = scanner.raw().is_ok() && scanner.end().is_ok();
        match is_json {
            true => Ok(out.0),
            false => Err(DocumentFault::Template("its result is not valid JSON".to_owned())),
        }
    }
}

impl fmt::Debug for BodyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyTemplate").finish_non_exhaustive()
    }
}

/// The result of a template, with a limit.
struct BoundedOutput(Vec<u8>);

impl Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LARGEST {
            return Err(io::Error::other("the result is too large"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
