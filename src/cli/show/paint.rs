//! Colours, where somebody sees them: states are worded, so that nothing is said by colour alone.

use std::{
    env,
    io::{self, IsTerminal},
    sync::LazyLock,
};

/// What a colour is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ink {
    /// None.
    #[default]
    Plain,
    /// A heading.
    Head,
    /// As it should be.
    Good,
    /// On its way, or limited.
    Note,
    /// Wrong.
    Bad,
}

/// Whether standard output is a terminal whose user wants colours (<https://no-color.org>).
static COLOURS: LazyLock<bool> = LazyLock::new(|| {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
});

/// Text in a colour, where colours are seen.
pub(crate) fn paint(text: &str, ink: Ink) -> String {
    if *COLOURS { coloured(text, ink) } else { text.to_owned() }
}

fn coloured(text: &str, ink: Ink) -> String {
    let code = match ink {
        Ink::Plain => return text.to_owned(),
        Ink::Head => "1",
        Ink::Good => "32",
        Ink::Note => "33",
        Ink::Bad => "31",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_ends_with_its_text() {
        assert_eq!(coloured("up", Ink::Good), "\x1b[32mup\x1b[0m");
        assert_eq!(coloured("up", Ink::Plain), "up");
    }
}
