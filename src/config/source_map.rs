//! The texts of a configuration, addressed by one range of byte offsets.
//!
//! The main file starts at offset 0, each included file follows the one before it. A span of a value
//! therefore says both its file and its place in that file. Must not know what any key means.

use std::path::Path;

use super::fault::{Fault, InvalidValue, SourceText, Span};

/// The main file, then the files that it includes, in order.
pub(super) struct SourceMap<'s> {
    files: Vec<MappedSource<'s>>,
}

struct MappedSource<'s> {
    /// Offset of the first byte.
    base: usize,
    source: SourceText<'s>,
}

impl<'s> SourceMap<'s> {
    /// A map of the main file alone.
    pub(super) fn new(main: SourceText<'s>) -> Self {
        Self { files: vec![MappedSource { base: 0, source: main }] }
    }

    /// Appends an included file; returns its first offset.
    pub(super) fn add(&mut self, source: SourceText<'s>) -> usize {
        let last = &self.files[self.files.len() - 1];
        // One more than its length: the offset of a text's end belongs to that text.
        let base = last.base + last.source.text().len() + 1;
        self.files.push(MappedSource { base, source });
        base
    }

    /// The main file.
    pub(super) fn main(&self) -> &SourceText<'s> {
        &self.files[0].source
    }

    /// Whether two offsets are in the same file.
    pub(super) fn same_file(&self, one: usize, other: usize) -> bool {
        self.index(one) == self.index(other)
    }

    /// The path of the file that an offset is in.
    pub(super) fn path(&self, offset: usize) -> &'s Path {
        self.mapped(offset).source.path()
    }

    /// The line of an offset in its file, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        let mapped = self.mapped(offset);
        mapped.source.line(offset - mapped.base)
    }

    /// The text that begins at an offset.
    pub(super) fn whole_text(&self, base: usize) -> &'s str {
        self.mapped(base).source.text()
    }

    /// The source text of a span.
    pub(super) fn text(&self, at: &Span) -> &'s str {
        let mapped = self.mapped(at.start);
        mapped.source.text().get(mapped.local(at)).unwrap_or_default()
    }

    /// The text of a file by its index.
    pub(super) fn file_text(&self, index: usize) -> &'s str {
        self.files[index].source.text()
    }

    /// A fault at a span.
    pub(super) fn fault(&self, at: &Span, wrong: InvalidValue) -> Fault {
        let mapped = self.mapped(at.start);
        mapped.source.fault(&mapped.local(at), wrong)
    }

    /// The index of the file that an offset is in, and the span within that file.
    pub(super) fn locate(&self, at: &Span) -> (usize, Span) {
        let index = self.index(at.start);
        (index, self.files[index].local(at))
    }

    fn index(&self, offset: usize) -> usize {
        self.files.partition_point(|mapped| mapped.base <= offset).max(1) - 1
    }

    fn mapped(&self, offset: usize) -> &MappedSource<'s> {
        &self.files[self.index(offset)]
    }
}

impl MappedSource<'_> {
    fn local(&self, at: &Span) -> Span {
        at.start.saturating_sub(self.base)..at.end.saturating_sub(self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_has_a_file_and_a_line() {
        let mut map = SourceMap::new(SourceText::new(Path::new("main.toml"), "a = 1\nb = 2"));
        let first = map.add(SourceText::new(Path::new("one.toml"), ""));
        let second = map.add(SourceText::new(Path::new("two.toml"), "c = 3\nd = 4\n"));
        let place = |offset: usize| (map.path(offset).to_str().unwrap(), map.line(offset));
        assert_eq!(place(0), ("main.toml", 1));
        assert_eq!(place(11), ("main.toml", 2));
        assert_eq!(place(first), ("one.toml", 1));
        assert_eq!(place(second + 6), ("two.toml", 2));
        assert_eq!(map.text(&(second + 6..second + 11)), "d = 4");
        assert_eq!(map.locate(&(second + 6..second + 7)), (2, 6..7));
        assert!(map.same_file(0, 11) && !map.same_file(11, first));
        let fault = map.fault(&(second + 6..second + 7), InvalidValue::new("bad"));
        assert_eq!((fault.file.as_path(), fault.line, fault.column), (Path::new("two.toml"), 2, 1));
    }
}
