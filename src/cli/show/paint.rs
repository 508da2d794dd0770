//! Colors on terminals. Every color also has a text, so that nothing depends on color alone.

use std::{
    env,
    io::{self, IsTerminal},
    sync::LazyLock,
};

/// Color of a text, by its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Color {
    /// No color.
    #[default]
    Default,
    /// A heading.
    Heading,
    /// A good state.
    Good,
    /// A transitional or limited state.
    Warning,
    /// A bad state.
    Bad,
}

/// Whether standard output is a terminal and colors are not disabled (<https://no-color.org>).
static COLORS: LazyLock<bool> = LazyLock::new(|| {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
});

/// Adds a color to a text if standard output shows colors.
pub(crate) fn paint(text: &str, color: Color) -> String {
    if *COLORS { with_color(text, color) } else { text.to_owned() }
}

fn with_color(text: &str, color: Color) -> String {
    let code = match color {
        Color::Default => return text.to_owned(),
        Color::Heading => "1",
        Color::Good => "32",
        Color::Warning => "33",
        Color::Bad => "31",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_color_is_reset_after_the_text() {
        assert_eq!(with_color("up", Color::Good), "\x1b[32mup\x1b[0m");
        assert_eq!(with_color("up", Color::Default), "up");
    }
}
