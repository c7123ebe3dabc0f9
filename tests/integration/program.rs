//! The real program as a child process, as a user runs it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use pointsman::demo;
use pointsman::providers::simulated::recorded;

/// `pointsman serve`, killed when dropped.
pub struct Program {
    process: Child,
    /// `http://127.0.0.1:PORT`.
    pub base_url: String,
}

impl Program {
    /// Serves the configuration `toml`, which is written into `folder`, and waits until it listens.
    pub fn serve(folder: &Path, toml: &str, env: &[(&str, &str)]) -> Self {
        Self::start(folder, toml, env, &[])
    }

    /// The same with further arguments.
    pub fn serve_with(folder: &Path, toml: &str, arguments: &[&str]) -> Self {
        Self::start(folder, toml, &[], arguments)
    }

    fn start(folder: &Path, toml: &str, env: &[(&str, &str)], arguments: &[&str]) -> Self {
        let config = folder.join("pointsman.toml");
        fs::write(&config, toml).unwrap();
        let mut command = command();
        command
            .args(["serve", "--config"])
            .arg(&config)
            .args(arguments)
            .envs(env.iter().copied());
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut first)
            .unwrap();
        let address = first.trim().strip_prefix("listening on ");
        let base_url = address
            .unwrap_or_else(|| panic!("the first line was {first:?}"))
            .to_owned();
        Self { process, base_url }
    }

    /// SIGKILL: no chance to flush anything.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let told = Command::new("kill")
            .args(["-HUP", &self.process.id().to_string()])
            .status()
            .unwrap();
        assert!(told.success());
    }

    /// SIGTERM.
    pub fn tell_to_stop(&self) {
        let told = Command::new("kill")
            .arg(self.process.id().to_string())
            .status()
            .unwrap();
        assert!(told.success());
    }

    /// Waits for its end; the exit status.
    pub fn wait(mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }

    /// SIGTERM, and the exit status.
    pub fn terminate(self) -> Option<i32> {
        self.tell_to_stop();
        self.wait()
    }

    /// An address of it.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program in the repository's root, without the caller's keys.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in [
        "PORT",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
    ] {
        command.env_remove(name);
    }
    for name in [
        "DEEPSEEK_API_KEY",
        "DASHSCOPE_API_KEY",
        "MISTRAL_API_KEY",
        "OPENROUTER_API_KEY",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command of the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

/// The demo's configuration with fast simulated providers and its data in `folder`.
pub fn simulated(folder: &Path) -> String {
    demo::config_toml(&recorded().unwrap(), "127.0.0.1:0", &folder.join("data"))
        .replace("speed=20", "speed=2000")
}
