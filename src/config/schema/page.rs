//! The reference page of the configuration, in Markdown.

use std::fmt::Write as _;

use super::{DefaultValue, LONGEST, SECTIONS, SchemaKey, Section, ValueKind};

/// Longest line of text, in characters.
const WIDTH: usize = 118;

/// What stands before the tables.
const INTRODUCTION: &str = "\
# Configuration reference

<!-- Generated from src/config/schema: edit the keys there, then run
     `BLESS=1 cargo nextest run --test it reference::`. -->

The configuration is one TOML file, or a main file that includes others. `moorline check FILE` reports every error and \
warning with its line. Unknown keys are errors. `moorline schema` prints a JSON Schema for editors; see \
[Editor support](#editor-support). Every error message is listed in [Configuration errors](configuration-faults.md).

## Values

| Type | Written as |
| --- | --- |
| duration | A string of numbers with units: `\"500ms\"`, `\"2s\"`, `\"1h 30m\"`; at most `\"400d\"` |
| size | A string with a unit, `\"512B\"`, `\"64KiB\"`, `\"1MB\"`, or an integer in bytes |
| rate | A number per second, minute or hour: `\"50/s\"`, `\"3000/m\"`, `\"2/h\"` |
| percentage | A whole number with the sign: `\"50%\"` |
| address to listen on | IP address and port: `\"0.0.0.0:8080\"`, `\"[::]:8080\"` |
| path of a file | Relative paths start at the folder of the file that they are in |

Moorline watches the configuration, every file that it includes and every file that it names, with every symbolic link on \
the way to them. A moved link (certbot, a `current` release, a Kubernetes volume) and a folder that is created again count as \
changes. Changes that the system does not report, for example on a network file system, are found by comparing the files \
every `interval` of [`[reload]`](#reload).

## Environment variables

Every string can use variables of the process's environment. Numbers and booleans can be written as a string for this.

```toml,fragment
[listeners.web]
bind = \"0.0.0.0:${PORT:-8080}\"
connections_per_address = \"${MAX_CONNECTIONS:-200}\"
```

| Text | Meaning |
| --- | --- |
| `${NAME}` | The value of the variable. If the variable is not set, this is an error |
| `${NAME:-default}` | The value of the variable, or the default if the variable is not set or empty |
| `$${` | A literal `${`. Any other `$` stands for itself |

The environment of a process does not change while it runs: a reload sees the same values, and an upgrade passes them on to the new \
process. `moorline plan` uses the environment of the running process, `moorline check` uses its own. Error messages can show values: \
for secrets use `cookie_key`, `ticket_keys` and `admin.token`, which are never shown.

## Included files

```toml,fragment
include = [\"conf.d/*.toml\"]
```

`include` in the main file has paths and patterns, relative to the main file. Patterns have `*`, `?` and `[…]`, within one folder \
each. The files of a pattern are read in the order of their names; hidden files are not matched. All files together are one \
configuration:

- Tables merge by key at every level, so listeners and pools merge by name.
- `[[routes]]` of all files are appended in order.
- Any other key may be set in one file only. Setting it again is an error that names both places.

A pattern without a match is not an error; a path without a file is. An included file cannot include other files. Included \
files are watched, and so are the folders of patterns: a new file takes effect by itself.

## Editor support

`moorline schema > moorline.schema.json` writes a JSON Schema. Editors with Taplo, such as VS Code with Even Better TOML, use it for \
completion and checks if the configuration begins with this line:

```toml,fragment
#:schema ./moorline.schema.json
```

";

/// The whole page.
pub fn reference_page() -> String {
    let mut page = wrapped_page(INTRODUCTION);
    page.push_str("## Keys\n");
    for section in SECTIONS {
        let _ = write!(page, "\n### {}\n\n", section.heading);
        if !section.about.is_empty() {
            let _ = write!(page, "{}\n\n", wrapped(section.about, ""));
        }
        for key in section.keys {
            entry(&mut page, key);
        }
        if !section.notes.is_empty() {
            for paragraph in section.notes.split("\n\n") {
                let _ = write!(page, "\n{}\n", wrapped(paragraph, ""));
            }
        }
    }
    page
}

fn entry(page: &mut String, key: &SchemaKey) {
    let text = format!("**`{}`** ({}): {}", key.name, words(&key.kind), key.about);
    let default = match key.default {
        DefaultValue::Required => "Required.".to_owned(),
        DefaultValue::Value(text) => format!("Default: `{text}`."),
        DefaultValue::Words(text) => format!("Default: {}.", lower_first(text)),
    };
    let example = format!("{default} Example: `{} = {}`", key.name, key.example);
    let _ = write!(page, "- {}  \n  {}\n", wrapped(&text, "  "), wrapped(&example, "  "));
}

/// A sentence's beginning within another sentence.
fn lower_first(text: &str) -> String {
    // Not acronyms: `AES-GCM`.
    let word = text.chars().nth(1).is_some_and(|second| second.is_lowercase() || second == ' ');
    let mut characters = text.chars();
    match characters.next() {
        Some(first) if word => first.to_lowercase().chain(characters).collect(),
        _ => text.to_owned(),
    }
}

/// A type in words.
fn words(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Text(what) => (*what).to_owned(),
        ValueKind::Boolean => "boolean".to_owned(),
        ValueKind::Integer(low, high) => format!("integer from {low} to {high}"),
        ValueKind::Duration("1ms", LONGEST) => "duration, not 0".to_owned(),
        ValueKind::Duration("0s", LONGEST) => "duration".to_owned(),
        ValueKind::Duration("1ms", high) => format!("duration, at most {high}"),
        ValueKind::Duration(low, LONGEST) => format!("duration, at least {low}"),
        ValueKind::Duration(low, high) => format!("duration from {low} to {high}"),
        ValueKind::Size(low, high) => format!("size from {} to {}", size(*low), size(*high)),
        ValueKind::Percent(0) => "percentage".to_owned(),
        ValueKind::Percent(low) => format!("percentage, at least {low}%"),
        ValueKind::Rate => "rate".to_owned(),
        ValueKind::Choice(choices) => {
            let quoted: Vec<String> = choices.iter().map(|word| format!("`\"{word}\"`")).collect();
            listed(&quoted)
        }
        ValueKind::Table(section) => format!("table [{}](#{})", section.heading, anchor(section)),
        ValueKind::Named(section) => format!("tables [{}](#{})", section.heading, anchor(section)),
        ValueKind::Map(what, _) => (*what).to_owned(),
        ValueKind::Array(of) => format!("array of: {}", words(of)),
        ValueKind::OneOf(kinds) => {
            let mut all: Vec<String> = kinds.iter().map(words).collect();
            if let [rest @ .., ValueKind::Array(of)] = kinds
                && words(of) == listed(&all[..rest.len()])
            {
                all.truncate(rest.len());
                return format!("{}, or an array of these", listed(&all));
            }
            listed(&all)
        }
    }
}

fn listed(words: &[String]) -> String {
    match words {
        [one] => one.clone(),
        [all @ .., last] => format!("{} or {last}", all.join(", ")),
        [] => String::new(),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

/// The anchor of a section's heading, as mdBook and GitHub make it.
fn anchor(section: &Section) -> String {
    let slug = |section: &Section| -> String {
        let kept = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ');
        let slug: String = section.heading.chars().filter(kept).collect();
        slug.to_ascii_lowercase().replace(' ', "-")
    };
    let own = slug(section);
    let before = SECTIONS.iter().take_while(|known| !std::ptr::eq(**known, section));
    match before.filter(|known| slug(known) == own).count() {
        0 => own,
        before => format!("{own}-{before}"),
    }
}

/// Wraps the paragraphs of a page, but not its tables and code blocks.
fn wrapped_page(page: &str) -> String {
    let mut code = false;
    let lines = page.lines().map(|line| {
        code ^= line.starts_with("```");
        match code || line.starts_with("```") || line.starts_with(['|', '<', ' ', '#']) {
            true => line.to_owned(),
            false if line.starts_with("- ") => wrapped(line, "  "),
            false => wrapped(line, ""),
        }
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// Breaks a paragraph into lines, not within code or links; later lines begin with `indent`.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut length = indent.chars().count();
    for (index, word) in unbroken(text).into_iter().enumerate() {
        let width = word.chars().count();
        if index > 0 && length + 1 + width > WIDTH {
            lines.push('\n');
            lines.push_str(indent);
            length = indent.chars().count();
        } else if index > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += width;
    }
    lines
}

/// The words of a text; code in backticks is one word.
fn unbroken(text: &str) -> Vec<&str> {
    let (mut words, mut start, mut code) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match character {
            '`' => code = !code,
            ' ' if !code => {
                words.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    words.push(&text[start..]);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_not_in_code() {
        assert_eq!(unbroken("a `b c` d"), ["a", "`b c`", "d"]);
        let long = format!("{} `two words` end", "x".repeat(112));
        assert_eq!(wrapped(&long, "  "), format!("{}\n  `two words` end", "x".repeat(112)));
    }

    #[test]
    fn anchors_differ() {
        let anchors: std::collections::HashSet<String> =
            SECTIONS.iter().map(|section| anchor(section)).collect();
        assert_eq!(anchors.len(), SECTIONS.len());
        assert!(anchors.contains("poolsnamebackends-1") && anchors.contains("listenersnametls"));
    }
}
