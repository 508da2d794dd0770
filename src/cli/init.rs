//! `moorline init`: a starting configuration, or the translation of another proxy's configuration.
//!
//! The translations are pure: they get a way to read files and return a [`Translation`]. This file
//! reads, writes and reports.

mod draft;
mod error;
mod files;
mod haproxy;
mod nginx;
mod note;
mod template;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use self::{
    draft::ConfigDraft,
    error::TranslateError,
    files::SourceFiles,
    note::{Note, NoteKind},
    template::{CERT_FILE, KEY_FILE, TemplateOptions, TemplateTls},
};
use super::files::STANDARD_INPUT;
use crate::config::check;

/// Arguments of `init`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
A directive that has no equivalent or behaves differently is printed to standard error with its file, line \
and reason. All notes are comments at the top of the written file. Read them before you use the file.

Examples:
  moorline init
  moorline init --acme=chat.example.com /etc/moorline/moorline.toml
  moorline init --docker --tls -
  moorline init --from-nginx /etc/nginx/nginx.conf
  moorline init --from-haproxy /etc/haproxy/haproxy.cfg - | moorline check -")]
pub struct Args {
    /// File to write; `-` writes to standard output
    #[arg(value_name = "FILE", default_value = "moorline.toml")]
    pub file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
    /// Serve HTTPS with certificate files; if there are none, a self-signed certificate is created next to FILE
    #[arg(long, conflicts_with_all = ["acme", "from_nginx", "from_haproxy"])]
    pub tls: bool,
    /// Serve HTTPS with a certificate from Let's Encrypt for these names
    #[arg(
        long,
        value_name = "DOMAIN",
        num_args = 0..=1,
        require_equals = true,
        value_delimiter = ',',
        default_missing_value = "chat.example.com",
        conflicts_with_all = ["from_nginx", "from_haproxy"]
    )]
    pub acme: Option<Vec<String>>,
    /// Write a configuration for a container: backends by service name, ports above 1024
    #[arg(long, conflicts_with_all = ["from_nginx", "from_haproxy"])]
    pub docker: bool,
    /// Translate the configuration of nginx, with its includes
    #[arg(long, value_name = "NGINX_CONF", conflicts_with = "from_haproxy")]
    pub from_nginx: Option<PathBuf>,
    /// Translate the configuration of HAProxy
    #[arg(long, value_name = "HAPROXY_CFG")]
    pub from_haproxy: Option<PathBuf>,
}

/// A configuration that was translated.
struct Translation {
    /// The configuration in Moorline's terms.
    draft: ConfigDraft,
    /// Notes on missing, different and unneeded directives, in the order of the original.
    notes: Vec<Note>,
}

/// A translation of a file and of the files that it names.
type Translate = fn(&Path, &SourceFiles<'_>) -> Result<Translation, TranslateError>;

impl Args {
    /// Writes the configuration, and reports what a translation leaves out.
    ///
    /// # Errors
    /// The original cannot be translated, or the file exists or cannot be written.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(original) = &self.from_nginx {
            return self.translate("nginx", original, nginx::translate);
        }
        if let Some(original) = &self.from_haproxy {
            return self.translate("haproxy", original, haproxy::translate);
        }
        let tls = match &self.acme {
            Some(domains) => TemplateTls::Acme(domains.clone()),
            None if self.tls => TemplateTls::Files,
            None => TemplateTls::Off,
        };
        let options = TemplateOptions { tls, docker: self.docker };
        self.write(&template::template(&options))?;
        if self.to_stdout() {
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = io::stdout();
        writeln!(out, "wrote {}", self.file.display())?;
        if options.tls == TemplateTls::Files && self.self_signed()? {
            let note = "a self-signed certificate for localhost, for tests only";
            writeln!(out, "wrote {CERT_FILE} and {KEY_FILE} in the same folder: {note}")?;
        }
        writeln!(out, "next: set the backends, then `moorline check {}`", self.file.display())?;
        Ok(ExitCode::SUCCESS)
    }

    fn to_stdout(&self) -> bool {
        self.file.as_os_str() == STANDARD_INPUT
    }

    fn translate(&self, kind: &str, original: &Path, with: Translate) -> anyhow::Result<ExitCode> {
        let files = SourceFiles { read: &files::read, list: &files::list };
        let Translation { draft, notes } = with(original, &files)
            .with_context(|| format!("cannot translate {}", original.display()))?;
        let head = format!(
            "Translated from {} by `moorline init --from-{kind}`.\nRead the notes, then run `moorline check` on this file.",
            original.display()
        );
        let text = draft.text(&head, &notes);
        self.write(&text)?;
        self.report(&text, &notes)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Prints the notes and the errors of the written text to standard error.
    fn report(&self, text: &str, notes: &[Note]) -> io::Result<()> {
        let mut err = io::stderr();
        // Notes on unneeded directives are only in the file.
        for kind in NoteKind::ALL.into_iter().filter(|kind| *kind != NoteKind::Unneeded) {
            for note in notes.iter().filter(|note| note.kind == kind) {
                let Note { origin, directive, reason, .. } = note;
                let (file, line, label) = (origin.file.path.display(), origin.line, kind.label());
                writeln!(err, "{file}:{line}: {label}: `{directive}`: {reason}")?;
            }
        }
        let counts: Vec<String> = NoteKind::ALL
            .iter()
            .map(|kind| (notes.iter().filter(|note| note.kind == *kind).count(), kind.label()))
            .filter(|(count, _)| *count > 0)
            .map(|(count, label)| format!("{count} {label}"))
            .collect();
        let counts = if counts.is_empty() { "no notes".to_owned() } else { counts.join(", ") };
        let (shown, path) = match self.to_stdout() {
            true => ("the translation".to_owned(), Path::new("moorline.toml")),
            false => (self.file.display().to_string(), self.file.as_path()),
        };
        writeln!(err, "wrote {shown}: {counts}")?;
        if let Err(faults) = check::text(text, path) {
            writeln!(err, "\n{faults}\n{shown} has errors: correct them before you use it")?;
        }
        Ok(())
    }

    /// Writes the configuration. An existing file is kept unless `--force` is given.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        if self.to_stdout() {
            return Ok(io::stdout().write_all(text.as_bytes())?);
        }
        let shown = self.file.display();
        let opened = match self.force {
            true => File::create(&self.file),
            false => File::create_new(&self.file),
        };
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{shown} exists; use --force to replace it, or name another file");
            }
            Err(error) => return Err(error).with_context(|| format!("cannot write {shown}")),
        };
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {shown}"))
    }

    /// Creates a certificate next to the file, unless there is one. Returns whether it was created.
    fn self_signed(&self) -> anyhow::Result<bool> {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let [cert, key] = [CERT_FILE, KEY_FILE].map(|name| folder.join(name));
        if cert.exists() || key.exists() {
            return Ok(false);
        }
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let pair =
            rcgen::generate_simple_self_signed(names).context("cannot create a certificate")?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let written = options
            .open(&key)
            .and_then(|mut file| file.write_all(pair.signing_key.serialize_pem().as_bytes()))
            .and_then(|()| fs::write(&cert, pair.cert.pem()));
        written.with_context(|| format!("cannot write {}", cert.display()))?;
        Ok(true)
    }
}
