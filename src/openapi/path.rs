//! Path templates, such as `/users/{id}/files/{name}.json`.

use percent_encoding::percent_decode_str;

/// A path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathTemplate {
    /// As in the document.
    pub(super) text: String,
    segments: Vec<TemplateSegment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplateSegment {
    Literal(String),
    /// Text before a parameter, its name, and what follows it up to the next one or the end.
    Parameters {
        before: String,
        parameters: Vec<(String, String)>,
    },
}

impl PathTemplate {
    /// Parses a template; `None`: it does not begin with a slash, or its braces are not paired.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix('/')?;
        let segments = rest.split('/').map(segment).collect::<Option<_>>()?;
        Some(Self { text: text.to_owned(), segments })
    }

    /// Names of the parameters.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.segments
            .iter()
            .flat_map(|segment| match segment {
                TemplateSegment::Literal(_) => &[][..],
                TemplateSegment::Parameters { parameters, .. } => &parameters[..],
            })
            .map(|(name, _)| name.as_str())
    }

    /// How many segments begin with fixed text: paths without parameters come first.
    pub(super) fn precision(&self) -> (usize, usize) {
        let literal = |segment: &&TemplateSegment| matches!(segment, TemplateSegment::Literal(_));
        (self.segments.iter().filter(literal).count(), self.text.len())
    }

    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether a whole path matches.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        self.match_path(&segments).is_some()
    }

    /// Returns the values of the parameters, decoded; `None`: the path does not match. `segments` are those of the path.
    pub(crate) fn match_path<'t>(&'t self, segments: &[&str]) -> Option<Vec<(&'t str, String)>> {
        if segments.len() != self.segments.len() {
            return None;
        }
        let mut values = Vec::new();
        for (template, segment) in self.segments.iter().zip(segments) {
            let segment = percent_decode_str(segment).decode_utf8().ok()?;
            match template {
                TemplateSegment::Literal(text) if *text == segment => {}
                TemplateSegment::Literal(_) => return None,
                TemplateSegment::Parameters { before, parameters } => {
                    let mut rest = segment.strip_prefix(before.as_str())?;
                    for (name, after) in parameters {
                        let end = match after.as_str() {
                            "" => rest.len(),
                            after => rest.find(after)?,
                        };
                        // A parameter is never empty.
                        if end == 0 {
                            return None;
                        }
                        values.push((name.as_str(), rest[..end].to_owned()));
                        rest = &rest[end + after.len()..];
                    }
                    if !rest.is_empty() {
                        return None;
                    }
                }
            }
        }
        Some(values)
    }
}

/// Removes a base path from a path, by whole segments; `None`: the path is not below the base.
pub(crate) fn without_base<'p>(path: &'p str, base: &str) -> Option<&'p str> {
    let mut rest = path;
    for expected in base.split('/').skip(1) {
        let below = rest.strip_prefix('/')?;
        let (segment, _) = below.split_once('/').unwrap_or((below, ""));
        if percent_decode_str(segment).decode_utf8().ok()? != expected {
            return None;
        }
        rest = &below[segment.len()..];
    }
    Some(if rest.is_empty() { "/" } else { rest })
}

fn segment(text: &str) -> Option<TemplateSegment> {
    let Some((before, mut rest)) = text.split_once('{') else {
        return (!text.contains('}')).then(|| TemplateSegment::Literal(text.to_owned()));
    };
    let mut parameters = Vec::new();
    loop {
        let (name, after) = rest.split_once('}')?;
        if name.is_empty() || name.contains('{') || before.contains('}') {
            return None;
        }
        match after.split_once('{') {
            // Two parameters without text between them cannot be told apart.
            Some(("", _)) => return None,
            Some((between, next)) => {
                parameters.push((name.to_owned(), between.to_owned()));
                rest = next;
            }
            None if after.contains('}') => return None,
            None => {
                parameters.push((name.to_owned(), after.to_owned()));
                return Some(TemplateSegment::Parameters { before: before.to_owned(), parameters });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(template: &str, path: &str) -> Option<Vec<(String, String)>> {
        let template = PathTemplate::parse(template).unwrap();
        let segments: Vec<&str> = path.strip_prefix('/').unwrap().split('/').collect();
        let values = template.match_path(&segments)?;
        Some(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    #[test]
    fn a_path_gives_the_values_of_its_parameters() {
        let one = |name: &str, value: &str| Some(vec![(name.to_owned(), value.to_owned())]);
        assert_eq!(values("/users/{id}", "/users/7"), one("id", "7"));
        assert_eq!(values("/users/{id}", "/users/a%20b%2Fc"), one("id", "a b/c"));
        assert_eq!(values("/files/{name}.json", "/files/a.json"), one("name", "a"));
        assert_eq!(values("/files/{name}.json", "/files/a.xml"), None);
        assert_eq!(values("/users/{id}", "/users/"), None);
        assert_eq!(values("/users/{id}", "/users/7/x"), None);
        assert_eq!(values("/", "/"), Some(Vec::new()));
        let range = values("/a/{from}-{to}", "/a/1-2").unwrap();
        assert_eq!(range, [("from".to_owned(), "1".to_owned()), ("to".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn a_base_ends_with_its_segment() {
        assert_eq!(without_base("/v1/users", ""), Some("/v1/users"));
        assert_eq!(without_base("/v1/users", "/v1"), Some("/users"));
        assert_eq!(without_base("/%761/users?", "/v1"), Some("/users?"));
        assert_eq!(without_base("/v1", "/v1"), Some("/"));
        assert_eq!(without_base("/v1x/users", "/v1"), None);
        assert_eq!(without_base("/a", "/a/b"), None);
    }

    #[test]
    fn a_template_has_paired_braces() {
        for bad in ["users", "/{", "/{a", "/a}", "/{}", "/{a}{b}", "/{a{b}}"] {
            assert_eq!(PathTemplate::parse(bad), None, "{bad}");
        }
    }
}
