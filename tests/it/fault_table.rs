//! `docs/reference/configuration-faults.md`: every configuration error with an example.
//!
//! The page is generated from the files in `tests/config/bad`. With `BLESS=1` in the environment, the test
//! writes it.

use std::{collections::HashSet, fmt::Write as _, fs, path::Path};

use moorline::config::check::{self, Fault, Faults};

use crate::reference::assert_current;

const PAGE: &str = "docs/reference/configuration-faults.md";
const BAD: &str = "tests/config/bad";

const INTRODUCTION: &str = "\
# Configuration errors

<!-- Generated from tests/config/bad: add a file there, then run
     `BLESS=1 cargo nextest run --test it fault_table:: config::`. -->

`moorline check FILE` reports all errors of a configuration at once. Each has the file, the line and the column, the line \
itself, and advice:

```text
error: invalid duration `5`
 --> moorline.toml:3:11
  |
3 | connect = \"5\"
  |           ^^^
  = help: add a unit: \"5s\" or \"5ms\"
```

`moorline run` and a reload report the same errors. After a failed reload, the running configuration stays in use. The tables below have \
every kind of error with an example.
";

/// Headings, and the files in `tests/config/bad` whose names begin with one of these words.
const CHAPTERS: [(&str, &[&str]); 14] = [
    ("Text and format", &["syntax", "foreign", "long", "comment", "empty", "binary"]),
    ("Keys and types", &["keys", "types", "shapes", "missing", "no", "words", "follow"]),
    ("Included files and environment", &["include", "environment"]),
    ("Values", &["durations", "numbers", "addresses", "lists"]),
    ("Listeners and TLS", &["tls", "secure", "acme", "layer4"]),
    ("Routes", &["routes", "paths"]),
    ("Filters of routes", &["gateway"]),
    ("Error pages", &["error"]),
    ("Backends and sources", &["backends", "sources", "duplicates", "duplicate"]),
    ("Health, limits and overload", &["health", "resilience", "limits"]),
    ("Sticky sessions", &["sticky"]),
    ("Drains, reloads and upgrades", &["drains", "upgrades"]),
    ("Admin API, files and folders", &["admin", "places"]),
    ("Secrets", &["secrets"]),
];

fn chapter(file: &Path) -> usize {
    let stem = file.file_stem().unwrap().to_str().unwrap();
    let word = stem.split('-').next().unwrap();
    let found = CHAPTERS.iter().position(|(_, words)| words.contains(&word));
    found.unwrap_or_else(|| {
        panic!("{stem}.toml has no chapter in {PAGE}: add its first word to CHAPTERS")
    })
}

/// The message without the values of its example, so that the page has each kind of fault once.
fn kind(message: &str) -> String {
    let mut kind = String::new();
    for (index, part) in message.split('`').enumerate() {
        let names_a_key = part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        match index % 2 {
            0 => {
                let is_place = |word: &str| word.contains(':') && word.contains(char::is_numeric);
                let words = part.split(' ').map(|word| if is_place(word) { "…" } else { word });
                kind.push_str(&words.collect::<Vec<_>>().join(" "));
            }
            _ if names_a_key && !part.is_empty() && is_key(part) => {
                let _ = write!(kind, "`{part}`");
            }
            _ => kind.push_str("`…`"),
        }
    }
    kind
}

fn is_key(word: &str) -> bool {
    check::SECTIONS.iter().any(|section| section.has(word))
}

/// Formats code for a table cell.
fn code(text: &str) -> String {
    let text = text.trim().replace('|', "\\|");
    match text.contains('`') {
        _ if text.is_empty() => String::new(),
        true => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}

/// Formats a message, in which backticks mark code, for a table cell.
fn cell(text: &str) -> String {
    let text =
        text.replace(&format!("{BAD}/"), "").replace(BAD, "/etc/moorline").replace('|', "\\|");
    // Outside of code, `<` would start HTML.
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(index, part)| match index % 2 {
        0 => part.replace('<', "&lt;").replace('*', "\\*"),
        _ if part.is_empty() => "\"\"".to_owned(),
        // Show control characters as a terminal does.
        _ => part.replace('\u{7}', "␇").replace('\n', "␊"),
    });
    parts.collect::<Vec<_>>().join("`")
}

fn row(page: &mut String, fault: &Fault) {
    const LONGEST: usize = 100;
    let mut example: String = fault.text.trim().chars().take(LONGEST).collect();
    if fault.text.trim().chars().count() > LONGEST || fault.skipped > 0 {
        example.push('…');
    }
    let help = fault.help.as_deref().unwrap_or_default();
    let _ = writeln!(page, "| {} | {} | {} |", cell(&fault.message), code(&example), cell(help));
}

fn page() -> String {
    let mut chapters: Vec<Vec<Fault>> = CHAPTERS.iter().map(|_| Vec::new()).collect();
    let mut files: Vec<_> = fs::read_dir(BAD).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "toml"));
    files.sort();
    for file in files {
        let Faults(faults) = check::file(&file).unwrap_err();
        chapters[chapter(&file)].extend(faults);
    }
    let mut page = INTRODUCTION.to_owned();
    let mut seen = HashSet::new();
    for ((heading, _), faults) in CHAPTERS.iter().zip(chapters) {
        let _ = write!(
            page,
            "\n## {heading}\n\n| Message | Example | What to do |\n| --- | --- | --- |\n"
        );
        for fault in faults.iter().filter(|fault| seen.insert(kind(&fault.message))) {
            row(&mut page, fault);
        }
    }
    page
}

#[test]
fn the_committed_table_is_current() {
    assert_current(PAGE, &page());
}

#[test]
fn every_row_has_a_message_and_advice() {
    let page = page();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).collect();
    assert!(rows.len() > 150, "{}", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        assert!(cells.len() >= 3 && cells[0].len() > 4 && cells[2].len() > 2, "{row}");
    }
}
