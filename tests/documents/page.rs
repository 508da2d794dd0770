//! A Markdown page with generated parts.

use std::{env, fs, path::PathBuf};

/// A page and its text.
pub(crate) struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    /// Reads a page; the path is relative to the package.
    pub(crate) fn read(path: &str) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.into(), text }
    }

    /// Checks the generated part of this name, or writes it if `BLESS` is set.
    pub(crate) fn hold(&mut self, name: &str, expected: &str) {
        let (start, end) = self.span(name);
        if env::var_os("BLESS").is_some() {
            self.text.replace_range(start..end, expected);
            fs::write(&self.path, &self.text).unwrap();
        }
        let (start, end) = self.span(name);
        let now = &self.text[start..end];
        assert!(
            now == expected,
            "{}: the part `{name}` is not what the program says; run the test with BLESS=1\n{}",
            self.path.display(),
            difference(now, expected)
        );
    }

    fn span(&self, name: &str) -> (usize, usize) {
        let mark = format!("<!-- generated: {name} -->\n");
        let start = self.text.find(&mark);
        let start = start.unwrap_or_else(|| panic!("{}: no {mark}", self.path.display()));
        let start = start + mark.len();
        let end = self.text[start..].find("<!-- end -->").expect("the end of a generated part");
        (start, start + end)
    }
}

/// The first line in which two texts differ.
fn difference(now: &str, expected: &str) -> String {
    let (mut now, mut expected) = (now.lines(), expected.lines());
    loop {
        match (now.next(), expected.next()) {
            (None, None) => return String::new(),
            (a, b) if a == b => {}
            (a, b) => return format!("- {}\n+ {}", a.unwrap_or("(end)"), b.unwrap_or("(end)")),
        }
    }
}
