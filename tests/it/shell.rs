//! Completions, manual pages, the version, and standard input of commands.

use std::{fs, path::Path, process::Command};

use crate::support::{Backend, Proxy, admin::command};

#[tokio::test]
async fn each_shell_gets_a_completion_script() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = command(folder.path(), &["completions", shell], "", &[]).await.done();
        for word in ["undrain", "completions", "max-disconnects"] {
            assert!(script.contains(word), "no {word} for {shell}");
        }
    }
    let unknown = command(folder.path(), &["completions", "tcsh"], "", &[]).await;
    assert_eq!(unknown.code, 2, "{unknown:?}");
}

#[tokio::test]
async fn bash_completes_commands_and_flags() {
    let folder = tempfile::tempdir().unwrap();
    let script = command(folder.path(), &["completions", "bash"], "", &[]).await.done();
    let file = folder.path().join("moorline.bash");
    fs::write(&file, script).unwrap();
    let complete = |words: &[&str]| {
        let typed = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let last = words.len() - 1;
        let script = format!(
            "source '{}'; COMP_WORDS=({typed}); COMP_CWORD={last}; \
             _moorline moorline '{}' '{}'; echo \"${{COMPREPLY[@]}}\"",
            file.display(),
            words[last],
            words[last - 1],
        );
        let output = Command::new("bash").arg("-c").arg(script).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete(&["moorline", "stat"]), "status\n");
    assert_eq!(complete(&["moorline", "reload", "--max"]), "--max-disconnects\n");
}

#[tokio::test]
async fn manual_pages_are_written_for_the_program_and_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let page = command(folder.path(), &["man"], "", &[]).await.done();
    assert!(page.contains(".TH moorline 1") && page.contains("moorline\\-drain(1)"), "{page}");
    let output = command(folder.path(), &["man", "--dir", "pages/man1"], "", &[]).await.done();
    assert_eq!(output, "");
    for (name, part) in [
        ("moorline.1", ".SH"),
        ("moorline-check.1", "\\-\\-strict"),
        ("moorline-backends-add.1", ".TH"),
    ] {
        let path = folder.path().join("pages/man1").join(name);
        let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(part), "{name}: {page}");
    }
    fs::write(folder.path().join("file"), "").unwrap();
    let refused = command(folder.path(), &["man", "--dir", "file"], "", &[]).await;
    refused.refused("cannot write manual pages to file");
}

/// Runs `build.rs` in a folder as cargo does, and returns the commit that it prints.
fn commit(script: &Path, package: &Path, env: &[(&str, &str)]) -> Option<String> {
    let output = Command::new(script)
        .current_dir(package)
        .env_remove("MOORLINE_COMMIT")
        .env("PROFILE", "release")
        .envs(env.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let commit =
        text.lines().find_map(|line| line.strip_prefix("cargo::rustc-env=MOORLINE_COMMIT="));
    commit.map(str::to_owned)
}

#[test]
fn the_commit_comes_from_the_environment_the_package_or_git() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("build");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
    let compiled =
        Command::new("rustc").args(["--edition=2024", "-o"]).arg(&script).arg(source).status();
    assert!(compiled.unwrap().success());
    let package = folder.path().join("package");
    fs::create_dir(&package).unwrap();
    assert_eq!(commit(&script, &package, &[]), None, "no repository");
    assert_eq!(commit(&script, &package, &[("PATH", "")]), None, "no git");
    let given = commit(&script, &package, &[("MOORLINE_COMMIT", "v1-distribution")]);
    assert_eq!(given.as_deref(), Some("v1-distribution"));

    let git = |words: &[&str]| {
        let output = Command::new("git")
            .current_dir(&package)
            .args(["-c", "user.name=t", "-c", "user.email=t@t.test", "-c", "commit.gpgsign=false"])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q"]);
    fs::write(package.join("file"), "1").unwrap();
    git(&["add", "file"]);
    git(&["commit", "-qm", "one"]);
    let head = git(&["rev-parse", "HEAD"]);
    assert_eq!(commit(&script, &package, &[]).as_deref(), Some(&head[..12]));
    assert_eq!(commit(&script, &package, &[("PROFILE", "debug")]), None, "a debug build");
    let inner = package.join("inner");
    fs::create_dir(&inner).unwrap();
    assert_eq!(commit(&script, &inner, &[]), None, "a package in another project's repository");
    fs::write(package.join("file"), "2").unwrap();
    let modified = format!("{}-modified", &head[..12]);
    assert_eq!(commit(&script, &package, &[]), Some(modified));

    let info = format!("{{\n  \"git\": {{\n    \"sha1\": \"{}\"\n  }}\n}}", "ab".repeat(20));
    fs::write(package.join(".cargo_vcs_info.json"), info).unwrap();
    assert_eq!(commit(&script, &package, &[]).as_deref(), Some("abababababab"));
}

#[tokio::test]
async fn check_reads_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let good =
        "[listeners.web]\nbind = \"127.0.0.1:0\"\n[pools.app]\nbackends = { file = \"list\" }\n";
    fs::write(folder.path().join("list"), "127.0.0.1:1\n").unwrap();
    let output = command(folder.path(), &["check", "-"], good, &[]).await.done();
    assert!(
        output.starts_with("<stdin> is valid: 1 listener, 1 route, 1 pool, 1 backend"),
        "{output}"
    );
    let bad = format!("{good}nothing = 1\n");
    let refused = command(folder.path(), &["check", "-"], &bad, &[]).await;
    refused.refused("<stdin>:5");
    let run = command(folder.path(), &["run", "-"], good, &[]).await;
    run.refused("cannot run from standard input");
}

#[tokio::test]
async fn plan_reads_standard_input() {
    let backend = Backend::replying("ok").await;
    let proxy = Proxy::for_backends(&[backend.address]).await;
    let text = fs::read_to_string(proxy.file()).unwrap();
    let unchanged = command(proxy.directory(), &["plan", "-"], &text, &[]).await.done();
    assert!(unchanged.contains("nothing would change"), "{unchanged}");
    let more = format!("{text}\n[pools.other]\nbackends = [\"127.0.0.1:1\"]\n");
    let changed = command(proxy.directory(), &["plan", "-"], &more, &[]).await.done();
    assert!(changed.contains("other"), "{changed}");
    drop(backend);
    proxy.finish().await;
}
