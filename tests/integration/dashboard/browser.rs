//! A real Chromium without a window, driven over its DevTools protocol. Messages go through a pipe, each with a zero
//! byte at its end, so nothing but the browser itself is needed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};

/// Longest wait for one answer of the browser.
const PATIENCE: Duration = Duration::from_secs(60);
/// Looks of 200 ms each at a condition that is to come true.
const LOOKS: usize = 300;

/// A browser with one page; closed when dropped.
pub struct Browser {
    process: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    next: u64,
    session: String,
    /// Everything that the page was reported to do.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

/// The browser's program: `CHROMIUM`, or what is found under its usual names.
fn program() -> String {
    if let Ok(named) = std::env::var("CHROMIUM") {
        return named;
    }
    let usual = [
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    ];
    let found = usual.iter().find(|name| {
        let found = Command::new(name).arg("--version").stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    });
    found.map_or_else(
        || {
            panic!(
                "the dashboard's test needs Chromium: `apt-get install chromium fonts-dejavu-core` (scripts/test \
                 does it where it may), or name the program of another one in the variable CHROMIUM"
            )
        },
        |name| (*name).to_owned(),
    )
}

impl Browser {
    /// Starts it with an empty page.
    pub fn open() -> Self {
        let profile = tempfile::tempdir().unwrap();
        // The protocol's pipe is file descriptors 3 and 4.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 >/dev/null 2>&1"])
            .arg(program())
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args(["--no-first-run", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else {
                    return;
                };
                if sender.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            process,
            input,
            messages,
            next: 0,
            session: String::new(),
            events: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        browser.attach(&target["targetId"]);
        browser
    }

    fn attach(&mut self, target: &Value) {
        self.session = String::new();
        let attached = self.call(
            "Target.attachToTarget",
            json!({"targetId": target, "flatten": true}),
        );
        self.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        // The window's own focus comes and goes with messages of the browser that the page does not wait for, and
        // without it nothing in the page looks focused.
        self.call("Emulation.setFocusEmulationEnabled", json!({"enabled": true}));
    }

    /// Calls a method of the protocol and waits for its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        self.input.flush().unwrap();
        loop {
            let answer = self
                .messages
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|error| panic!("{method}: the browser does not answer ({error})"));
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    pub fn go(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({"url": url}));
        assert!(gone["errorText"].is_null(), "{url}: {gone}");
        self.wait("document.readyState === 'complete'");
    }

    /// Follows to the newest other page, which a link has opened.
    pub fn follow(&mut self, prefix: &str) {
        for _ in 0..LOOKS {
            let targets = self.call("Target.getTargets", json!({}));
            let found = targets["targetInfos"].as_array().unwrap().iter().find(|target| {
                target["type"] == "page" && target["url"].as_str().unwrap().starts_with(prefix)
            });
            if let Some(found) = found {
                self.attach(&found["targetId"].clone());
                self.wait("document.readyState === 'complete'");
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("no page {prefix}... was opened");
    }

    /// The value of a JavaScript expression.
    pub fn js(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, expression: &str) {
        for _ in 0..LOOKS {
            if self.js(expression) == true {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let page = self.js("document.body.innerText");
        panic!(
            "this did not come true: {expression}\n{}",
            page.as_str().unwrap_or_default()
        );
    }

    pub fn width(&mut self, width: u32, height: u32) {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", params);
    }

    /// `scheme`: `light` or `dark`; `media`: `` or `print`.
    pub fn media(&mut self, scheme: &str, media: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call(
            "Emulation.setEmulatedMedia",
            json!({"media": media, "features": features}),
        );
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            other => panic!("no such key here: {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut params = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                params["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Keeps a picture of the whole page in the folder that `POINTSMAN_SCREENSHOTS` names, if it does.
    pub fn picture(&mut self, name: &str) {
        let Ok(folder) = std::env::var("POINTSMAN_SCREENSHOTS") else {
            return;
        };
        let size = self.call("Page.getLayoutMetrics", json!({}))["cssContentSize"].clone();
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        let params = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let taken = self.call("Page.captureScreenshot", params);
        let bytes = base64::engine::general_purpose::STANDARD.decode(taken["data"].as_str().unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes.unwrap()).unwrap();
    }

    /// Errors on the console and exceptions, as text.
    pub fn errors(&mut self) -> Vec<String> {
        // What was reported until now is in hand after one more answer.
        self.js("1");
        let bad = |event: &&Value| match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => true,
            "Log.entryAdded" => event["params"]["entry"]["level"] == "error",
            "Runtime.consoleAPICalled" => event["params"]["type"] == "error",
            _ => false,
        };
        self.events.iter().filter(bad).map(ToString::to_string).collect()
    }

    /// The addresses that the pages asked for.
    pub fn requests(&self) -> Vec<String> {
        let asked = self
            .events
            .iter()
            .filter(|event| event["method"] == "Network.requestWillBeSent");
        asked
            .map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
