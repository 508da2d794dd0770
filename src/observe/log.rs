//! The process's own log: text on standard error, one event after the other.
//!
//! tracing-subscriber escapes what could steer a terminal (ESC, BEL, C1 …) but lets line breaks in
//! messages and displayed fields pass. Both are handled here: in a field's value every control
//! character is escaped; a message may have several lines (a configuration's faults do), and each
//! further one is set off by [`CONTINUED`], so that no text can pass for an event of its own.

use std::{
    env,
    fmt::{self, Debug, Write},
    io::{self, IsTerminal},
};

use tracing::{Subscriber, field::Field, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        MakeWriter,
        format::{self, Writer},
    },
};

/// What the further lines of a message begin with.
const CONTINUED: &str = "\n  | ";

/// Starts logging. `RUST_LOG` says what, by default `info` and above; colours only where standard
/// error is a terminal and `NO_COLOR` is not set. Without effect where logging was started already.
pub fn init() {
    // https://no-color.org: set and not empty.
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ansi = io::stderr().is_terminal() && !no_color;
    let filter = filter(&env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default());
    let _ = tracing::subscriber::set_global_default(subscriber(io::stderr, ansi, filter));
}

/// `info` where nothing else is said; faulty directives are left out with a word on standard error.
fn filter(directives: &str) -> EnvFilter {
    EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(directives)
}

fn subscriber<W>(writer: W, ansi: bool, filter: EnvFilter) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(ansi)
        .with_target(false)
        .fmt_fields(format::debug_fn(field))
        .finish()
}

fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() == "message" {
        return write!(Escape { writer, line_break: CONTINUED }, "{value:?}");
    }
    write!(writer, "{}=", field.name())?;
    write!(Escape { writer, line_break: "\\n" }, "{value:?}")
}

/// Passes text on with its control characters escaped.
struct Escape<'a, 'w> {
    writer: &'a mut Writer<'w>,
    line_break: &'static str,
}

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            let Some(control) = piece.chars().next_back().filter(|last| last.is_control()) else {
                self.writer.write_str(piece)?;
                continue;
            };
            self.writer.write_str(&piece[..piece.len() - control.len_utf8()])?;
            match control {
                '\n' => self.writer.write_str(self.line_break)?,
                _ => write!(self.writer, "{}", control.escape_default())?,
            }
        }
        Ok(())
    }
}
