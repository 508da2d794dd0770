//! Path prefixes of one host, longest first.
//!
//! A prefix matches itself and everything below it on segment boundaries: `/chat` matches `/chat`, `/chat/` and
//! `/chat/x`, but not `/chatter`. A trailing slash is ignored: `/chat/` equals `/chat`, and `/` matches every path,
//! `*` included. Prefixes are stored in [normal form](normal).

use std::collections::HashMap;

use crate::config::path::normal;

/// A set of path prefixes with their targets.
#[derive(Debug)]
pub(super) struct Prefixes<P> {
    /// Targets by prefix without trailing slash; the root is the empty string.
    targets: HashMap<Box<str>, Alternatives<P>>,
    /// Distinct lengths in `targets`, longest first; one lookup per length finds the longest match.
    lengths: Vec<usize>,
}

/// The targets of one prefix: those with conditions in their order, then the one without.
#[derive(Debug)]
struct Alternatives<P> {
    conditional: Vec<P>,
    /// Target of every other request.
    unconditional: Option<P>,
}

impl<P> Default for Alternatives<P> {
    fn default() -> Self {
        Self { conditional: Vec::new(), unconditional: None }
    }
}

impl<P> Alternatives<P> {
    fn find(&self, meets: impl Fn(&P) -> bool) -> Option<&P> {
        // Most prefixes have no conditions.
        if self.conditional.is_empty() {
            return self.unconditional.as_ref();
        }
        self.conditional.iter().find(|target| meets(target)).or(self.unconditional.as_ref())
    }
}

impl<P> Default for Prefixes<P> {
    fn default() -> Self {
        Self { targets: HashMap::new(), lengths: Vec::new() }
    }
}

impl<P> Prefixes<P> {
    /// Adds a prefix. Of several targets without conditions, the first one is kept.
    pub(super) fn insert(&mut self, prefix: &str, conditional: bool, target: P) {
        let prefix = normal(prefix);
        let prefix = prefix.trim_end_matches('/');
        let alternatives = self.targets.entry(prefix.into()).or_default();
        match conditional {
            true => alternatives.conditional.push(target),
            false => _ = alternatives.unconditional.get_or_insert(target),
        }
        if let Err(at) = self.lengths.binary_search_by(|length| prefix.len().cmp(length)) {
            self.lengths.insert(at, prefix.len());
        }
    }

    /// Returns the target of the longest prefix of `path`, which must be in [normal form](normal). Targets with
    /// conditions count if they meet `meets`.
    pub(super) fn find(&self, path: &str, meets: &impl Fn(&P) -> bool) -> Option<&P> {
        self.lengths.iter().find_map(|&length| {
            // Check the boundary first, so that a hostile path with thousands of segments costs no hashing at positions
            // without a boundary.
            if length > 0 && !matches!(path.as_bytes().get(length), None | Some(b'/')) {
                return None;
            }
            self.targets.get(path.get(..length)?)?.find(meets)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Prefixes;

    fn prefixes(list: &[&str]) -> Prefixes<String> {
        let mut prefixes = Prefixes::default();
        for prefix in list {
            prefixes.insert(prefix, false, (*prefix).to_owned());
        }
        prefixes
    }

    #[test]
    fn prefixes_end_on_segment_boundaries() {
        let chat = prefixes(&["/chat"]);
        for covered in ["/chat", "/chat/", "/chat/x", "/chat//x"] {
            assert!(chat.find(covered, &|_| true).is_some(), "{covered}");
        }
        for not in ["/chatter", "/cha", "/", "", "/Chat", "/x/chat", "*"] {
            assert!(chat.find(not, &|_| true).is_none(), "{not}");
        }
    }

    #[test]
    fn trailing_slash_is_ignored() {
        let chat = prefixes(&["/chat/"]);
        assert!(chat.find("/chat", &|_| true).is_some());
        assert!(chat.find("/chat/x", &|_| true).is_some());
        assert!(chat.find("/chatter", &|_| true).is_none());
    }

    #[test]
    fn root_matches_every_path() {
        let root = prefixes(&["/"]);
        for path in ["/", "/a", "/a/b", "", "*", "/ü"] {
            assert!(root.find(path, &|_| true).is_some(), "{path}");
        }
    }

    #[test]
    fn longest_prefix_wins_in_any_order() {
        for list in [["/", "/a", "/a/b"], ["/a/b", "/a", "/"], ["/a", "/a/b", "/"]] {
            let prefixes = prefixes(&list);
            assert_eq!(prefixes.find("/a/b/c", &|_| true).unwrap(), "/a/b");
            assert_eq!(prefixes.find("/a/bc", &|_| true).unwrap(), "/a");
            assert_eq!(prefixes.find("/b", &|_| true).unwrap(), "/");
        }
    }

    #[test]
    fn first_of_two_equal_prefixes_is_kept() {
        let prefixes = prefixes(&["/a", "/a/"]);
        assert_eq!(prefixes.find("/a", &|_| true).unwrap(), "/a");
    }

    #[test]
    fn cut_inside_a_character_does_not_match() {
        assert!(prefixes(&["/ab"]).find("/aü", &|_| true).is_none());
    }

    #[test]
    fn conditional_targets_are_tried_in_order_and_fall_back() {
        let mut prefixes = Prefixes::default();
        for (prefix, conditional, target) in [
            ("/", false, "root"),
            ("/a", false, "plain"),
            ("/a", true, "first"),
            ("/a/", true, "second"),
            ("/b", true, "only"),
        ] {
            prefixes.insert(prefix, conditional, target);
        }
        let find =
            |path, met: &[&str]| *prefixes.find(path, &|target| met.contains(target)).unwrap();
        assert_eq!(find("/a", &["second", "first"]), "first");
        assert_eq!(find("/a/x", &["second"]), "second");
        assert_eq!(find("/a", &[]), "plain");
        assert_eq!(find("/b", &["only"]), "only");
        assert_eq!(find("/b", &[]), "root", "a shorter prefix");
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_prefix(
            list in prop::collection::vec("(/[ab]{1,2}){0,3}/?", 0..8),
            path in "(/[abü]{0,2}){0,5}",
        ) {
            let list: Vec<&str> = list.iter().map(String::as_str).collect();
            let expected = list
                .iter()
                .map(|p| p.trim_end_matches('/'))
                .filter(|p| {
                    p.is_empty() || path == **p || path.starts_with(&format!("{p}/"))
                })
                .max_by_key(|p| p.len());
            let prefixes = prefixes(&list);
            let found = prefixes.find(&path, &|_| true).map(|p| p.trim_end_matches('/'));
            prop_assert_eq!(found, expected);
        }
    }
}
