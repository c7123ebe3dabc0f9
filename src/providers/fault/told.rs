//! What a provider's error body says, whichever of the shapes in use it has.

use serde_json::Value;

/// An error as told. Empty where nothing was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    /// The sentence for people.
    pub(super) message: String,
    /// Every machine-readable word: types, codes, statuses, reasons, quota names.
    pub(super) words: Vec<String>,
    /// A status inside the body.
    pub(super) status: Option<u16>,
    /// Gemini's `RetryInfo.retryDelay` in seconds.
    pub(super) retry_delay: Option<f64>,
}

/// Reads an error body. Text that is no JSON is a message; a web page is nothing.
pub(super) fn read(body: &[u8]) -> Told {
    let mut told = Told::default();
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => told.value(&value),
        Err(_) => {
            let text = String::from_utf8_lossy(&body[..body.len().min(2000)]);
            let text = text.trim();
            if !text.starts_with('<') {
                told.message = text.to_owned();
            }
        }
    }
    told
}

/// Whether a 200's JSON is an error: `{"error": ...}` or `{"object": "error"}` without an answer beside it.
pub(in crate::providers) fn is_error(value: &Value) -> bool {
    let value = match value {
        Value::Array(items) => items.first().unwrap_or(value),
        _ => value,
    };
    let error = value.get("error").is_some_and(|error| !error.is_null());
    error || value["object"] == "error" || value["type"] == "error"
}

impl Told {
    fn value(&mut self, value: &Value) {
        match value {
            // Gemini streams answer with an array of one error.
            Value::Array(items) => {
                if let Some(first) = items.first() {
                    self.value(first);
                }
            }
            Value::Object(fields) => {
                match fields.get("error") {
                    Some(Value::String(message)) => {
                        self.say(message);
                        self.word(fields.get("code"));
                    }
                    Some(error) if !error.is_null() => self.error(error),
                    _ => self.error(value),
                }
                // FastAPI's, and Mistral's validation errors.
                if self.message.is_empty() {
                    self.detail(fields.get("detail"));
                }
            }
            Value::String(message) => self.say(message),
            _ => {}
        }
    }

    /// The error object itself.
    fn error(&mut self, error: &Value) {
        match &error["message"] {
            Value::String(message) => self.say(message),
            message => self.detail(message.get("detail")),
        }
        // The wrapping `type: "error"` of Anthropic and the `object` of vLLM say nothing.
        for key in ["type", "code", "status", "error_code", "reason"] {
            self.word(error.get(key));
        }
        if let Value::Array(details) = &error["details"] {
            for detail in details {
                self.google_detail(detail);
            }
        }
        self.nested(&error["metadata"]);
    }

    /// OpenRouter's `metadata`: the error of the provider behind it, as text.
    fn nested(&mut self, metadata: &Value) {
        self.word(metadata.get("error_type"));
        let Some(raw) = metadata["raw"].as_str() else {
            return;
        };
        let inner = read(raw.as_bytes());
        self.words.extend(inner.words);
        if !inner.message.is_empty() {
            self.say(&inner.message);
        }
    }

    /// A member of google.rpc.Status's `details`.
    fn google_detail(&mut self, detail: &Value) {
        self.word(detail.get("reason"));
        if let Some(delay) = detail["retryDelay"].as_str() {
            self.retry_delay = delay.trim_end_matches('s').parse().ok();
        }
        if let Value::Array(violations) = &detail["violations"] {
            for violation in violations {
                self.word(violation.get("quotaId"));
            }
        }
    }

    /// `detail`: a sentence, or a list of `{"loc", "msg"}`.
    fn detail(&mut self, detail: Option<&Value>) {
        match detail {
            Some(Value::String(message)) => self.say(message),
            Some(Value::Array(items)) => {
                for item in items {
                    self.word(item.get("type"));
                    let place: Vec<_> = match &item["loc"] {
                        Value::Array(steps) => steps.iter().filter_map(Value::as_str).collect(),
                        _ => Vec::new(),
                    };
                    if let Some(message) = item["msg"].as_str() {
                        self.say(&format!("{}: {message}", place.join(".")));
                    }
                }
            }
            _ => {}
        }
    }

    fn say(&mut self, message: &str) {
        if !self.message.is_empty() {
            self.message.push_str("; ");
        }
        self.message.push_str(message);
    }

    fn word(&mut self, word: Option<&Value>) {
        match word {
            Some(Value::String(word)) if !word.is_empty() => {
                if self.status.is_none() {
                    self.status = word.parse().ok();
                }
                self.words.push(word.to_ascii_lowercase());
            }
            Some(Value::Number(code)) => {
                self.status = code
                    .as_u64()
                    .and_then(|code| u16::try_from(code).ok())
                    .or(self.status);
                self.words.push(code.to_string());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_shape_in_use() {
        let cases: [(&str, &str, &[&str]); 9] = [
            (
                r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#,
                "m",
                &["t", "c"],
            ),
            (
                r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
                "m",
                &["overloaded_error"],
            ),
            (
                r#"[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[
                   {"violations":[{"quotaId":"PerDay"}]},{"retryDelay":"34.5s"}]}}]"#,
                "m",
                &["429", "resource_exhausted", "perday"],
            ),
            (
                r#"{"object":"error","message":"m","type":"BadRequestError","code":400}"#,
                "m",
                &["badrequesterror", "400"],
            ),
            (r#"{"error":"m"}"#, "m", &[]),
            (r#"{"detail":"m"}"#, "m", &[]),
            (
                r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","x"],"msg":"no"}]}}"#,
                "body.x: no",
                &["extra_forbidden"],
            ),
            (
                r#"{"error":{"code":502,"message":"Provider returned error",
                   "metadata":{"raw":"{\"error\":{\"message\":\"m\",\"code\":\"c\"}}"}}}"#,
                "Provider returned error; m",
                &["502", "c"],
            ),
            ("plain words", "plain words", &[]),
        ];
        for (body, message, words) in cases {
            let told = read(body.as_bytes());
            assert_eq!(told.message, message, "{body}");
            assert_eq!(told.words, words, "{body}");
        }
        assert_eq!(read(cases[2].0.as_bytes()).retry_delay, Some(34.5));
    }

    #[test]
    fn a_web_page_and_an_empty_body_tell_nothing() {
        assert_eq!(read(b"<html>502</html>"), Told::default());
        assert_eq!(read(b""), Told::default());
    }
}
