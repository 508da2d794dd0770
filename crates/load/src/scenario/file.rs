//! Scenario files: TOML with the names of the flags as keys, and one table for the kind of run.

use std::{fs, path::Path};

use anyhow::anyhow;

use super::options::Options;

/// Reads a file. Relative paths in the file are relative to its folder.
///
/// # Errors
///
/// The file cannot be read or is invalid; the error has file, line and column.
pub(crate) fn read(file: &Path) -> anyhow::Result<Options> {
    let shown = file.display();
    let text = fs::read_to_string(file).map_err(|e| {
        let advice = match e.kind() {
            std::io::ErrorKind::NotFound => "; check the path",
            _ => "",
        };
        anyhow!("cannot read the scenario file {shown}: {e}{advice}")
    })?;
    let mut options: Options = toml::from_str(&text).map_err(|fault| {
        let message = fault.message().trim_end().replace('\n', " ");
        match fault.span() {
            Some(span) => {
                let (line, column) = place(&text, span.start);
                anyhow!("{shown}:{line}:{column}: {message}")
            }
            None => anyhow!("{shown}: {message}"),
        }
    })?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let deploy = options.deploy.as_mut();
    let deploy = deploy.map(|deploy| [deploy.backends_file.as_mut(), deploy.socket.as_mut()]);
    let chaos = options.chaos.as_mut().and_then(|chaos| chaos.backends_file.as_mut());
    let outputs = [options.ca.as_mut(), options.json.as_mut(), options.html.as_mut()];
    let paths = deploy.into_iter().flatten().chain([chaos]).chain(outputs);
    for path in paths.flatten() {
        *path = folder.join(&*path);
    }
    Ok(options)
}

/// Returns line and column, both from 1, of a byte.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Result<Options, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        let path = file.path().display().to_string();
        read(file.path()).map_err(|error| error.to_string().replace(&path, "FILE"))
    }

    #[test]
    fn keys_are_the_names_of_the_flags() {
        let options =
            typed("client = 'websocket'\nevery = '2s'\nsize = 64\nrate = 50\nmax-p99 = '50ms'");
        let options = options.unwrap();
        assert_eq!(options.size.map(|size| size.0), Some(64));
        assert_eq!(options.rate.map(|rate| rate.0), Some(50.0));
        assert!(options.max_p99.is_some());
    }

    #[test]
    fn errors_are_one_line_with_their_position() {
        let fault = typed("clients = 1\nclints = 2").unwrap_err();
        assert!(fault.starts_with("FILE:2:1: unknown field `clints`"), "{fault}");
        let fault = typed("\nevery = 'soon'").unwrap_err();
        let wanted = "FILE:2:9: invalid duration soon: use a number with a unit, for example 500ms, 10s or 5m";
        assert_eq!(fault, wanted);
        assert_eq!(typed("a = [").unwrap_err().lines().count(), 1);
        let fault = read(Path::new("/nowhere/x.toml")).unwrap_err().to_string();
        assert!(fault.starts_with("cannot read the scenario file /nowhere/x.toml: "), "{fault}");
    }

    #[test]
    fn relative_paths_start_at_the_folder_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("smoke.toml");
        fs::write(&file, "json = 'out.json'\n[deploy]\nbackends-file = '/etc/list'").unwrap();
        let options = read(&file).unwrap();
        assert_eq!(options.json.unwrap(), folder.path().join("out.json"));
        assert_eq!(options.deploy.unwrap().backends_file.unwrap(), Path::new("/etc/list"));
    }

    #[test]
    fn a_flag_overrides_its_key_and_the_keys_it_excludes() {
        let file = typed("every = '2s'\nrate = 5\nclients = 7\nca = 'x'").unwrap();
        let flags = typed("think = '0s'\ninsecure = true").unwrap();
        let both = flags.over(file);
        assert!(both.every.is_none() && both.think.is_some() && both.ca.is_none());
        assert!(both.rate.is_some() && both.clients == Some(7));
    }
}
