//! The clients that people use, unchanged, against the real program: OpenAI's SDKs for Python and Node,
//! Anthropic's for Python, and curl. The SDKs, and Node itself, are installed with pip and npm, once, under the build directory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pointsman::demo;
use pointsman::providers::simulated::recorded;

const KEY: &str = "sdk-test-key";

/// `pointsman serve` with simulated providers; stopped when dropped.
struct Server {
    process: Child,
    base_url: String,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let toml = demo::config_toml(&recorded().unwrap(), "127.0.0.1:0", &folder.path().join("data"))
            .replace("[server]\n", "[server]\napi_keys_env = [\"POINTSMAN_API_KEY\"]\n")
            .replace("speed=20", "speed=500");
        let embedding = "[[models]]\nid = \"sim-meta/vectors\"\nkind = \"embedding\"\n[models.price]\ninput_per_mtok = 0.1\n";
        let toml = format!("{toml}\n{embedding}");
        let config = folder.path().join("pointsman.toml");
        fs::write(&config, toml).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .env("POINTSMAN_API_KEY", KEY)
            .env_remove("PORT")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut first).unwrap();
        let address = first.trim().strip_prefix("listening on ");
        let base_url = address
            .unwrap_or_else(|| panic!("the first line was {first:?}"))
            .to_owned();
        Self {
            process,
            base_url,
            _folder: folder,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A Python environment with the requirements of `tests/sdk/NAME`, made once for each version of them.
/// `more` installs what else is needed there.
fn environment(name: &str, more: impl Fn(&Path, &Path)) -> (PathBuf, PathBuf) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sdk-{name}"));
    let wanted = ["requirements.txt", "package.json"]
        .map(|file| fs::read_to_string(here.join(file)).unwrap_or_default());
    let marker = folder.join("installed.txt");
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted.concat()) {
        return (here, folder);
    }
    let _ = fs::remove_dir_all(&folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(here.join("requirements.txt"));
    run(&mut pip);
    more(&here, &folder);
    fs::write(marker, wanted.concat()).unwrap();
    (here, folder)
}

fn run(command: &mut Command) {
    let hint = "install what is missing, or run scripts/test, which does";
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; {hint}"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?} failed\n{out}\n{err}");
}

#[test]
fn openais_and_anthropics_sdks_for_python() {
    let (here, folder) = environment("python", |_, _| {});
    let server = Server::start();
    let mut tests = Command::new(folder.join("bin/python"));
    tests
        .args(["-m", "unittest", "-v", "test_openai_sdk", "test_anthropic_sdk"])
        .current_dir(here);
    tests
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "127.0.0.1");
    tests
        .env("BASE_URL", format!("{}/v1", server.base_url))
        .env("API_KEY", KEY);
    run(&mut tests);
}

#[test]
fn openai_sdk_for_node() {
    let path = |folder: &Path| {
        format!(
            "{}:{}",
            folder.join("bin").display(),
            std::env::var("PATH").unwrap()
        )
    };
    let (here, folder) = environment("node", |here, folder| {
        fs::copy(here.join("package.json"), folder.join("package.json")).unwrap();
        let mut npm = Command::new(folder.join("bin/npm"));
        npm.args([
            "install",
            "--no-package-lock",
            "--no-audit",
            "--no-fund",
            "--silent",
        ]);
        run(npm.current_dir(folder).env("PATH", path(folder)));
    });
    let server = Server::start();
    let mut tests = Command::new(folder.join("bin/node"));
    tests
        .arg("--test")
        .arg(here.join("openai.test.mjs"))
        .env("SDK_DIR", &folder)
        .env("PATH", path(&folder));
    tests
        .env("BASE_URL", format!("{}/v1", server.base_url))
        .env("API_KEY", KEY);
    run(&mut tests);
}

#[test]
fn curl_asks_streams_and_is_refused() {
    let server = Server::start();
    let curl = |key: &str, body: &str| {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--no-buffer",
                "--noproxy",
                "*",
                "--write-out",
                "\n%{http_code}",
            ])
            .args([
                "-H",
                "content-type: application/json",
                "-H",
                &format!("authorization: Bearer {key}"),
            ])
            .args(["-d", body, &format!("{}/v1/chat/completions", server.base_url)])
            .output()
            .expect("install curl, or run scripts/test, which does");
        String::from_utf8(output.stdout).unwrap()
    };
    let body = r#"{"model":"auto","messages":[{"role":"user","content":"Hello"}]}"#;
    let whole = curl(KEY, body);
    assert!(
        whole.ends_with("\n200") && whole.contains("simulated answer"),
        "{whole}"
    );
    let streamed = curl(KEY, &body.replace("{\"model\"", "{\"stream\":true,\"model\""));
    assert!(
        streamed.starts_with("data: {") && streamed.contains("data: [DONE]\n\n"),
        "{streamed}"
    );
    let refused = curl("wrong", body);
    assert!(
        refused.ends_with("\n401") && refused.contains("\"error_type\":\"authentication\""),
        "{refused}"
    );
    let broken = curl(KEY, "{\"model\":");
    assert!(broken.ends_with("\n400"), "{broken}");
}
