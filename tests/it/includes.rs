//! `include` and environment variables in a running process: changes of included files are applied
//! automatically, and every command shows them.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::support::{Backend, Proxy, Raw, eventually, message, proxy::Setup};

const PORT: &str = "MOORLINE_TEST_PORT";

/// A proxy whose main file has a listener, and whose pools are in `conf.d`.
struct SplitConfig {
    proxy: Proxy,
    folder: PathBuf,
}

impl SplitConfig {
    /// Starts the proxy with one pool, whose port comes from the environment.
    async fn start(backend: &Backend) -> Self {
        let setup = Setup::new().installed().env(PORT, backend.address.port().to_string());
        let folder = setup.directory().join("conf.d");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("10-app.toml"), pool("app", "/", &format!("127.0.0.1:${{{PORT}}}")))
            .unwrap();
        let text = "include = [\"conf.d/*.toml\"]\nadmin = { metrics = \"127.0.0.1:0\" }\n\
                    listeners.web.bind = \"127.0.0.1:0\"\n";
        Self { proxy: setup.text(text).start().await, folder }
    }

    fn write(&self, name: &str, text: &str) {
        let fresh = self.folder.join(".fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.folder.join(name)).unwrap();
    }

    async fn wait_until_answered_by(&self, path: &str, text: &str) {
        let ask = || message::get(path, "Connection: close\r\n");
        for _ in 0..1_000 {
            if Raw::ask(self.proxy.web(), ask()).await.text() == text {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{text} does not answer {path}: {}", self.proxy.stderr_text());
    }
}

fn pool(name: &str, path: &str, address: &str) -> String {
    format!(
        "[[routes]]\npath = \"{path}\"\npool = \"{name}\"\n\
         [pools.{name}]\nbackends = [\"{address}\"]\n"
    )
}

#[tokio::test]
async fn changes_of_included_files_take_effect() {
    let (app, chat) = (Backend::replying("app").await, Backend::replying("chat").await);
    let split = SplitConfig::start(&app).await;
    split.wait_until_answered_by("/", "app").await;
    split.wait_until_answered_by("/chat", "app").await;
    // A new file that the pattern matches.
    let text = pool("chat", "/chat", &chat.address.to_string());
    split.write("20-chat.toml", &text);
    split.wait_until_answered_by("/chat", "chat").await;
    // An edit.
    split.write("20-chat.toml", &text.replace("/chat", "/other"));
    split.wait_until_answered_by("/other", "chat").await;
    split.wait_until_answered_by("/chat", "app").await;
    // A name that the pattern does not match.
    split.write("30-more.disabled", &pool("more", "/more", "127.0.0.1:1"));
    // A removal.
    fs::remove_file(split.folder.join("20-chat.toml")).unwrap();
    split.wait_until_answered_by("/other", "app").await;
    split.wait_until_answered_by("/more", "app").await;
    drop((app, chat));
    split.proxy.finish().await;
}

#[tokio::test]
async fn faults_of_included_files_name_them_and_the_old_configuration_stays() {
    let app = Backend::replying("app").await;
    let split = SplitConfig::start(&app).await;
    split.write("20-chat.toml", &pool("app", "/chat", "127.0.0.1:1"));
    let line = |part: &'static str| move |line: &str| line.contains(part);
    split.proxy.wait_for_stderr("the place", line("conf.d/20-chat.toml:5:1")).await;
    let refusal = split.proxy.stderr_text();
    assert!(refusal.contains("`pools.app.backends` is already set in "), "{refusal}");
    assert!(refusal.contains("conf.d/10-app.toml:5"), "{refusal}");
    split.wait_until_answered_by("/chat", "app").await;
    // A file with errors is still watched.
    fs::remove_file(split.folder.join("20-chat.toml")).unwrap();
    split.write("20-chat.toml", &pool("late", "/late", &app.address.to_string()));
    let config = || async { split.proxy.command(&["config"]).await.done() };
    let mut shown = config().await;
    for _ in 0..1_000 {
        if shown.contains("\"late\"") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        shown = config().await;
    }
    assert!(shown.contains("\"late\""), "{shown}");
    drop(app);
    split.proxy.finish().await;
}

#[tokio::test]
async fn commands_and_an_upgrade_see_included_files_and_the_environment() {
    let app = Backend::replying("app").await;
    let mut split = SplitConfig::start(&app).await;
    let address = app.address.to_string();
    let assert_complete = |shown: Value| {
        assert_eq!(shown["pools"][0]["backends"][0]["address"], address.as_str(), "{shown}");
        let watched = shown["watched"].to_string();
        assert!(watched.contains("conf.d/*.toml") && watched.contains("10-app.toml"), "{watched}");
    };
    assert_complete(split.proxy.command(&["config", "--json"]).await.json());
    // The environment of the proxy counts, not the environment of the command.
    assert_eq!(split.proxy.command(&["plan"]).await.done(), "nothing would change\n");
    let file = split.proxy.file();
    let plan = split.proxy.command(&["plan", file.to_str().unwrap()]).await.done();
    assert_eq!(plan, "nothing would change\n");
    let other =
        fs::read_to_string(&file).unwrap() + "[pools.spare]\nbackends = [\"127.0.0.1:1\"]\n";
    fs::write(split.proxy.directory().join("other.toml"), other).unwrap();
    let plan = split.proxy.command(&["plan", "other.toml"]).await.done();
    assert!(plan.contains("spare") && !plan.contains("removed"), "{plan}");
    // `check` runs without this variable.
    let check = split.proxy.command(&["check", file.to_str().unwrap()]).await;
    assert_eq!(check.code, 1, "{check:?}");
    let place = format!("error: the environment variable `{PORT}` is not set\n --> ");
    assert!(
        check.err.contains(&place) && check.err.contains("conf.d/10-app.toml:5:24"),
        "{check:?}"
    );
    split.proxy.upgrade().await;
    split.proxy.wait_for_predecessors().await;
    split.wait_until_answered_by("/", "app").await;
    assert_complete(split.proxy.command(&["config", "--json"]).await.json());
    // The new process watches the folder, too.
    split.write("20-late.toml", &pool("late", "/late", &address));
    eventually("the new file is read", || {
        split.proxy.stderr().iter().any(|line| line.contains("reloaded") && line.contains("late"))
    })
    .await;
    drop(app);
}
