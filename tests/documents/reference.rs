//! Reference tables that are written by the program itself.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use moorline::{
    error::Termination,
    observe::{
        metrics::{BackendSample, CacheSample, CertificateSample, Metrics},
        names::ChosenBy,
    },
};
use serde_json::Value;

use crate::page::Page;

/// What `--help` prints.
fn help(subcommand: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
    let output = command.args(subcommand).arg("--help").env("NO_COLOR", "1").output().unwrap();
    assert!(output.status.success(), "{subcommand:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Subcommands that a help text lists, except `help` itself.
fn subcommands(help: &str) -> Vec<String> {
    let commands = help.split("Commands:\n").nth(1).unwrap_or_default();
    let lines = commands.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The help of the program and of each subcommand, in the order of the help. The flags that lead to the running
/// process are equal for all commands that have them, and are shown once.
fn command_line() -> String {
    let mut text = String::new();
    let mut shared = String::new();
    let mut queue = vec![Vec::new()];
    while let Some(path) = queue.pop() {
        let help = help(&path);
        let name = path.iter().fold("moorline".to_owned(), |all, part| format!("{all} {part}"));
        let paragraphs = help.trim_end().split("\n\n");
        let (access, own): (Vec<&str>, Vec<&str>) = paragraphs
            .partition(|part| part.contains("--socket <PATH>") && part.contains("--api <URL>"));
        if let [access] = access[..] {
            assert!(shared.is_empty() || shared == access, "{name}: {access}");
            shared = access.to_owned();
        }
        let own = own.join("\n\n");
        text.push_str(&format!("\n### `{name}`\n\n```text\n{own}\n```\n"));
        if !access.is_empty() {
            text.push_str("\nThe [shared flags](#shared-flags) apply.\n");
        }
        for name in subcommands(&help).into_iter().rev() {
            queue.push(path.iter().cloned().chain([name]).collect());
        }
    }
    if !shared.is_empty() {
        text.push_str(&format!("\n### Shared flags\n\n```text\n{shared}\n```\n"));
    }
    text + "\n"
}

#[test]
fn the_command_line_is_what_help_prints() {
    let text = command_line();
    for name in ["run", "drain", "backends add", "upgrade"] {
        assert!(text.contains(&format!("### `moorline {name}`\n")), "{text}");
    }
    Page::read("docs/reference/cli.md").hold("moorline", &text);
}

/// A scrape with a sample of each family.
fn scrape() -> String {
    let metrics = Metrics::new();
    let listener = metrics.listener("web");
    listener.ended(&Termination::Complete, ChosenBy::Sid, 1, 1);
    let backend = BackendSample {
        pool: "chat".to_owned(),
        name: "blue-1".to_owned(),
        up: true,
        draining: false,
        ejected: false,
        ramp: 1.0,
        sessions: 0,
        requests: 0,
        idle: 0,
        connections: 0,
        pending: 0,
        waiting: 0,
    };
    let expires = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let certificate =
        CertificateSample { listener: "web".to_owned(), name: "localhost".to_owned(), expires };
    let stores = ["memory", "disk"].map(|store| CacheSample { store, bytes: 0, entries: 0 });
    metrics.encode([backend].into_iter(), [certificate].into_iter(), stores.into_iter())
}

/// Labels whose values come from the configuration or from a long list; the others are listed with their values.
const OPEN_LABELS: [&str; 5] = ["listener", "pool", "backend", "certificate", "termination"];

/// The labels of the samples of a family, each with its values if they are few.
fn labels(scrape: &str, name: &str) -> String {
    let mut labels: Vec<(String, Vec<String>)> = Vec::new();
    for line in scrape.lines() {
        let sample = line.split(['{', ' ']).next().unwrap_or_default();
        if sample != name && sample != format!("{name}_total") {
            continue;
        }
        let Some((_, rest)) = line.split_once('{') else { continue };
        let inner = rest.split('}').next().unwrap_or_default();
        for (label, value) in inner.split(',').filter_map(|pair| pair.split_once('=')) {
            let value = format!("`{}`", value.trim_matches('"'));
            let value = Some(value).filter(|_| !OPEN_LABELS.contains(&label));
            match labels.iter_mut().find(|(known, _)| known == label) {
                Some((_, values)) => values.extend(value.filter(|v| !values.contains(v))),
                None => labels.push((label.to_owned(), value.into_iter().collect())),
            }
        }
    }
    let shown = labels.into_iter().map(|(label, mut values)| {
        values.sort();
        match values.is_empty() {
            true => format!("`{label}`"),
            false => format!("`{label}`: {}", values.join(", ")),
        }
    });
    shown.collect::<Vec<_>>().join("; ")
}

#[test]
fn metrics_are_those_of_a_scrape() {
    let scrape = scrape();
    let mut table =
        "\n| Metric | Type | Labels | Meaning |\n| --- | --- | --- | --- |\n".to_owned();
    let helps = scrape.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let mut rows: Vec<String> = Vec::new();
    for (name, meaning) in helps {
        let kind = format!("# TYPE {name} ");
        let kind = scrape.lines().find_map(|line| line.strip_prefix(&kind)).unwrap();
        let total = if kind == "counter" { "_total" } else { "" };
        let labels = labels(&scrape, name);
        let meaning = meaning.trim_end_matches('.');
        rows.push(format!("| `{name}{total}` | {kind} | {labels} | {meaning} |\n"));
    }
    assert!(rows.len() > 25, "{scrape}");
    rows.sort();
    table.extend(rows);
    Page::read("docs/reference/metrics.md").hold("metrics", &(table + "\n"));
}

/// The text of all source files of the proxy.
fn source(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&source(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
    text
}

#[test]
fn log_messages_are_in_the_source() {
    let page = fs::read_to_string("docs/reference/messages.md").unwrap();
    let (_, table) = page.split_once("## The process log\n").expect("the section on the log");
    let table = table.split("\n## ").next().unwrap();
    let messages: Vec<&str> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(messages.len() > 8, "{messages:?}");
    let source = source(Path::new("src"));
    for message in messages {
        assert!(source.contains(&format!("\"{message}")), "no log message begins with: {message}");
    }
}

#[test]
fn api_paths_are_those_of_the_description() {
    let description = fs::read_to_string("src/api/openapi.json").unwrap();
    let description: Value = serde_json::from_str(&description).unwrap();
    let mut table = "\n| Request | Does | Answers |\n| --- | --- | --- |\n".to_owned();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let Some(summary) = operation["summary"].as_str() else { continue };
            let more = operation["description"].as_str().map(|more| format!(". {more}"));
            let does = format!("{summary}{}", more.unwrap_or_default());
            let codes = operation["responses"].as_object().unwrap().keys();
            let codes = codes.cloned().collect::<Vec<_>>().join(", ");
            let method = method.to_uppercase();
            table.push_str(&format!("| `{method} {path}` | {does} | {codes} |\n"));
        }
    }
    Page::read("docs/reference/api.md").hold("paths", &(table + "\n"));
}
