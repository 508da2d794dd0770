//! Configuration files: valid files have no fault, invalid files get all their faults reported.
//!
//! The faults of `tests/config/bad/NAME.toml` are in `NAME.expect`. With `BLESS=1` in the environment, the
//! test writes these files; read the difference before you commit.

use std::{
    env, fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use moorline::config::{
    Config, SharedKeys,
    check::{self, Faults},
};

/// Configuration files of a folder, sorted, with paths relative to the package.
fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

pub(crate) fn good(name: &str) -> Config {
    check::file(&Path::new("tests/config/good").join(name)).unwrap_or_else(|f| panic!("{f}"))
}

#[test]
fn good_files_have_no_fault() {
    for file in files("tests/config/good") {
        if let Err(faults) = check::file(&file) {
            panic!("{faults}");
        }
    }
}

#[test]
fn bad_files_get_every_fault_shown() {
    let bless = env::var_os("BLESS").is_some();
    for file in files("tests/config/bad") {
        let shown = check::file(&file).unwrap_err().to_string();
        let expect = file.with_extension("expect");
        if bless {
            fs::write(&expect, &shown).unwrap();
        }
        let expected = fs::read_to_string(&expect).unwrap_or_default();
        assert!(shown == expected, "{}:\n{shown}\nexpected:\n{expected}", file.display());
    }
}

#[test]
fn faults_are_in_file_order_with_their_line() {
    for file in files("tests/config/bad") {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().collect();
        let Faults(faults) = check::file(&file).unwrap_err();
        let own = faults.iter().filter(|fault| fault.file == file);
        let mut last = (1, 1);
        for fault in own {
            assert!((fault.line, fault.column) >= last, "{fault}");
            last = (fault.line, fault.column);
            let line = lines.get(fault.line - 1).copied().unwrap_or_default();
            assert!(line.contains(&fault.text), "{fault}");
        }
    }
}

#[test]
fn line_ends_do_not_move_a_fault() {
    for file in files("tests/config/bad") {
        let unix = fs::read_to_string(&file).unwrap().replace("\r\n", "\n");
        let dos = unix.replace('\n', "\r\n");
        assert_eq!(check::text(&unix, &file), check::text(&dos, &file), "{}", file.display());
    }
}

#[test]
fn a_byte_order_mark_does_not_move_a_fault() {
    for file in files("tests/config/bad") {
        let text = fs::read_to_string(&file).unwrap();
        let bare = text.trim_start_matches('\u{feff}');
        let marked = format!("\u{feff}{bare}");
        assert_eq!(check::text(bare, &file), check::text(&marked, &file), "{}", file.display());
    }
}

fn command(subcommand: &str, file: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moorline")).args([subcommand, file]).output().unwrap()
}

#[test]
fn check_reports_the_contents_of_a_file_and_its_warnings() {
    let output = command("check", "tests/config/good/design.toml");
    let verdict = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        verdict.split_inclusive("2 backends, ").next().unwrap(),
        "tests/config/good/design.toml is valid, with warnings: 2 listeners, 1 route, 1 pool, 2 backends, "
    );
    let warnings = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && warnings.contains(" --> tests/config/good/design.toml:"),
        "{warnings}"
    );
    let strict = ["check", "--strict", "tests/config/good/design.toml"];
    let strict = Command::new(env!("CARGO_BIN_EXE_moorline")).args(strict).output().unwrap();
    assert_eq!(strict.status.code(), Some(1));
}

#[test]
fn check_and_run_report_the_same_faults() {
    let faults = fs::read_to_string("tests/config/bad/tls.expect").unwrap();
    for subcommand in ["check", "run"] {
        let output = command(subcommand, "tests/config/bad/tls.toml");
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(shown.contains(&faults), "{subcommand}: {shown}");
        assert_eq!(output.status.code(), Some(1), "{subcommand}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn fault_127_a_backend_cannot_be_the_admin_listener() {
    let listed = tempfile::tempdir().unwrap();
    fs::write(listed.path().join("backends.txt"), "10.0.0.1:3000\n127.0.0.1:9090\n").unwrap();
    let text = "admin = \"0.0.0.0:9090\"\nlisteners.web.bind = \"127.0.0.1:0\"\n\
                pools.app.backends = { file = \"backends.txt\" }\n";
    let Faults(faults) = check::text(text, &listed.path().join("m.toml")).unwrap_err();
    assert_eq!((faults.len(), faults[0].line), (1, 2), "{faults:?}");
    assert_eq!(faults[0].message, "127.0.0.1:9090 is an address of `admin`");
}

#[test]
fn every_included_and_referenced_file_is_watched() {
    let watched = good("everything.toml").watched;
    assert!(watched.iter().all(|path| path.is_absolute() && path.is_file()), "{watched:?}");
    let names: Vec<_> = watched.iter().map(|path| path.file_name().unwrap()).collect();
    for name in [
        "everything.toml",
        "cookie.key",
        "admin.token",
        "backends.txt",
        "site.pem",
        "site.key",
        "other.pem",
        "other.key",
    ] {
        assert!(names.iter().filter(|seen| **seen == name).count() == 1, "{name}: {names:?}");
    }
}

#[test]
fn an_unreadable_file_is_one_fault() {
    let absent = check::file(Path::new("tests/config/absent.toml")).unwrap_err();
    assert_eq!(
        absent.to_string(),
        "error: cannot read `tests/config/absent.toml`: there is no such file\n \
         --> tests/config/absent.toml\n  = help: give the path of a Moorline configuration file\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let huge = folder.path().join("huge.toml");
    fs::File::create(&huge).unwrap().set_len((8 << 20) + 1).unwrap();
    let Faults(faults) = check::file(&huge).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].message.ends_with("is larger than 8 MiB"), "{}", faults[0]);
}

#[test]
fn a_fault_points_at_bytes_that_are_not_utf_8() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("latin1.toml");
    fs::write(&file, b"# ok\nadmin = \"f\xfcr\"\n").unwrap();
    let Faults(faults) = check::file(&file).unwrap_err();
    assert_eq!((faults.len(), faults[0].line, faults[0].column), (1, 2, 11));
}

#[test]
fn the_number_of_faults_is_limited() {
    let text: String = (0..10_000).map(|n| format!("k{n} = 1\n")).collect();
    let Faults(faults) = check::text(&text, Path::new("m.toml")).unwrap_err();
    assert!(faults.len() <= 201, "{}", faults.len());
    assert!(faults.last().unwrap().message.contains("more than"), "{}", faults.len());
}

mod generated {
    use std::path::Path;

    use moorline::config::check;
    use proptest::prelude::*;

    /// Pieces of configuration files, so that generated texts reach all parts of the reader.
    fn piece() -> impl Strategy<Value = String> {
        let keys = check::SECTIONS.iter().flat_map(|section| section.names());
        let mut words: Vec<String> = keys.map(str::to_owned).collect();
        for section in check::SECTIONS {
            words.push(format!("\n[{}]\n", section.name));
            words.push(format!("\n[[{}]]\n", section.name));
        }
        words.extend(
            " = |\n|\"|'|\"\"\"|[|]|{|}|, |.|#|1|0|-1|true|\"2s\"|\"127.0.0.1:80\"|\"http\"|\"https\"|ü|日|\r\n"
                .split('|')
                .map(str::to_owned),
        );
        prop_oneof![8 => prop::sample::select(words), 1 => ".{0,4}"]
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let text = String::from_utf8_lossy(&bytes);
            if let Err(faults) = check::text(&text, Path::new("m.toml")) {
                prop_assert!(!faults.to_string().is_empty());
            }
        }

        #[test]
        fn almost_valid_files_never_panic(pieces in prop::collection::vec(piece(), 0..40)) {
            if let Err(faults) = check::text(&pieces.concat(), Path::new("m.toml")) {
                for fault in &faults.0 {
                    prop_assert!(fault.to_string().contains('^'), "{fault}");
                }
            }
        }
    }
}

#[test]
fn check_does_not_wait_for_a_pipe_without_a_writer() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("moorline.toml");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let listener = "[listeners.web]\nbind = \"127.0.0.1:0\"\n[pools.app]\n\
         backends = [\"127.0.0.1:3000\"]\n[[routes]]\npool = \"app\"\n";
    let named = directory.path().join("named.toml");
    fs::write(&named, format!("cookie_key = {{ file = \"moorline.toml\" }}\n{listener}")).unwrap();
    for file in [&pipe, &named] {
        let checked = command("check", file.to_str().unwrap());
        let output = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(!checked.status.success(), "{output}");
        assert!(
            output.contains("moorline.toml") && output.contains("use a regular file"),
            "{output}"
        );
    }
    // Process substitution of a shell is a pipe as well, but has a writer.
    let text = listener.replace('"', "\\\"");
    let script =
        format!("{:?} check <(sleep 0.1; printf \"{text}\")", env!("CARGO_BIN_EXE_moorline"));
    let checked = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn included_files_are_one_configuration() {
    let config = good("includes.toml");
    let paths: Vec<&str> = config.routes.iter().map(|route| route.path.as_str()).collect();
    assert_eq!(paths, ["/", "/app", "/chat"]);
    let [app, chat] = &config.pools[..] else { panic!("{:?}", config.pools) };
    assert_eq!((app.name.as_str(), app.timeouts.connect), ("app", Duration::from_secs(1)));
    assert_eq!(app.sticky.cookie, None);
    assert_eq!((chat.name.as_str(), chat.backends[1].name.as_str()), ("chat", "spare"));
    let [web] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!(web.bind, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(web.connections_per_address, NonZeroU32::new(100));
    // Relative paths start at the folder of the file that contains them.
    assert!(matches!(config.cookie_keys, SharedKeys::Configured(_)));
    let place = config.places.at("pools.app.timeouts.connect");
    assert!(place.ends_with("good/conf.d/20-chat.toml:12"), "{place}");
    let folder = env::current_dir().unwrap().join("tests/config/good");
    for name in ["includes.toml", "conf.d/10-app.toml", "conf.d/20-chat.toml", "conf.d/*.toml"] {
        let watched = config.watched.iter().filter(|path| **path == folder.join(name)).count();
        assert_eq!(watched, 1, "{name}: {:?}", config.watched);
    }
}

#[test]
fn an_include_pattern_without_matches_is_not_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let text = "include = [\"conf.d/*.toml\", \"sites/*/pool.toml\"]\n\
                listeners.web.bind = \"127.0.0.1:0\"\n";
    let parse = || check::text(text, &folder.path().join("m.toml"));
    let Faults(faults) = parse().unwrap_err();
    let messages: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(messages, ["there is no pool"]);
    fs::create_dir_all(folder.path().join("sites/one")).unwrap();
    fs::create_dir_all(folder.path().join("sites/none")).unwrap();
    let pool = "[pools.app]\nbackends = [\"127.0.0.1:1\"]\n";
    fs::write(folder.path().join("sites/one/pool.toml"), pool).unwrap();
    assert_eq!(parse().unwrap().pools[0].name, "app");
}
