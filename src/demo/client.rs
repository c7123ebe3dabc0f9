//! The load's side of the wire: what it asks, and how it reads the answers. An ordinary client; it imports
//! nothing of the server.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value, json};

use super::prompts::Prompt;
use crate::providers::simulated::PROMPT_TAG;

/// Longest time that one request of the load may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the server is and how to enter.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) http: reqwest::Client,
    pub(super) base_url: String,
    pub(super) api_key: Option<String>,
}

/// What the load needs of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Served {
    /// The id that feedback quotes.
    pub(super) id: String,
    /// `provider/model` that served.
    pub(super) model: String,
    /// Tokens of the prompt.
    pub(super) input_tokens: u64,
    /// What the server says it cost, in dollars.
    pub(super) cost_usd: f64,
}

/// Why a request of the load came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the server could not be reached: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the server answered {status}: {message}")]
    Refused { status: u16, message: String },
    #[error("the answer has no `{0}`")]
    Incomplete(&'static str),
    #[error("the answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The fields of an answer, or of a chunk of one, that matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope {
    id: Option<String>,
    model: Option<String>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: u64,
    cost: Option<f64>,
}

impl Client {
    /// Asks one prompt and reads the answer to its end.
    pub(super) async fn ask(
        &self,
        prompt: &Prompt,
        model: &str,
        user: &str,
        stream: bool,
    ) -> Result<Served, AskError> {
        let text = self
            .post("/v1/chat/completions", &question(prompt, model, user, stream))
            .await?;
        if stream {
            read_stream(&text)
        } else {
            read_whole(&text)
        }
    }

    /// Posts a score for an answer.
    pub(super) async fn rate(&self, id: &str, score: f64, rater: &str) -> Result<(), AskError> {
        let feedback = json!({"id": id, "metric": "quality", "score": score, "rater": rater});
        self.post("/v1/feedback", &feedback).await.map(drop)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<String, AskError> {
        let request = self
            .http
            .post(format!("{}{path}", self.base_url))
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string());
        self.send(request).await
    }

    /// Reads what is at `path`.
    pub(super) async fn get(&self, path: &str) -> Result<String, AskError> {
        self.send(self.http.get(format!("{}{path}", self.base_url))).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<String, AskError> {
        let mut request = request.timeout(PATIENCE);
        if let Some(key) = &self.api_key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        if status.is_success() {
            return Ok(text);
        }
        let error: Option<Value> = serde_json::from_str(&text).ok();
        let message = error
            .as_ref()
            .and_then(|error| error.pointer("/error/message")?.as_str());
        Err(AskError::Refused {
            status: status.as_u16(),
            message: message.unwrap_or(&text).to_owned(),
        })
    }
}

/// The request for a prompt. Prompts about tools come with one.
fn question(prompt: &Prompt, model: &str, user: &str, stream: bool) -> Value {
    let mut body = json!({
        "model": model,
        "messages": [{"role": "user", "content": prompt.text}],
        "user": user,
        "metadata": {PROMPT_TAG: prompt.traits.tag()},
        "stream": stream,
    });
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    if prompt.category == "tool_use" {
        let schema = json!({
            "type": "object",
            "properties": {"tool": {"type": "string"}, "argument": {"type": "string"}},
            "required": ["tool"],
        });
        let function =
            json!({"name": "run_tool", "description": "Runs one of the office tools", "parameters": schema});
        body["tools"] = json!([{"type": "function", "function": function}]);
    }
    body
}

fn read_whole(text: &str) -> Result<Served, AskError> {
    let mut served = Reading::default();
    served.take(serde_json::from_str(text)?)?;
    served.finish()
}

fn read_stream(text: &str) -> Result<Served, AskError> {
    let mut served = Reading::default();
    let mut done = false;
    for line in text.lines() {
        match line.strip_prefix("data:").map(str::trim) {
            Some("[DONE]") => done = true,
            Some(data) => served.take(serde_json::from_str(data)?)?,
            None => {}
        }
    }
    if done {
        served.finish()
    } else {
        Err(AskError::Incomplete("[DONE]"))
    }
}

/// An answer as far as it was read.
#[derive(Default)]
struct Reading {
    id: Option<String>,
    model: Option<String>,
    usage: Option<Usage>,
}

impl Reading {
    fn take(&mut self, envelope: Envelope) -> Result<(), AskError> {
        if let Some(error) = envelope.error {
            let message = error
                .get("message")
                .and_then(Value::as_str)
                .unwrap_or("no message");
            return Err(AskError::Refused {
                status: 200,
                message: message.to_owned(),
            });
        }
        self.id = self.id.take().or(envelope.id);
        self.model = self.model.take().or(envelope.model);
        self.usage = envelope.usage.or(self.usage.take());
        Ok(())
    }

    fn finish(self) -> Result<Served, AskError> {
        let usage = self.usage.ok_or(AskError::Incomplete("usage"))?;
        Ok(Served {
            id: self.id.ok_or(AskError::Incomplete("id"))?,
            model: self.model.ok_or(AskError::Incomplete("model"))?,
            input_tokens: usage.prompt_tokens,
            cost_usd: usage.cost.ok_or(AskError::Incomplete("usage.cost"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Served {
        Served {
            id: "chatcmpl-1".to_owned(),
            model: "sim-meta/llama-3.1-8b".to_owned(),
            input_tokens: 7,
            cost_usd: 0.25,
        }
    }

    #[test]
    fn reads_a_whole_answer() {
        let text = r#"{"id":"chatcmpl-1","model":"sim-meta/llama-3.1-8b","choices":[],
            "usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8,"cost":0.25}}"#;
        assert_eq!(read_whole(text).unwrap(), expected());
    }

    #[test]
    fn reads_a_stream_to_its_last_chunk() {
        let text = "data: {\"id\":\"chatcmpl-1\",\"model\":\"sim-meta/llama-3.1-8b\",\"usage\":null}\n\n: comment\n\n\
             data: {\"id\":\"chatcmpl-1\",\"model\":\"x\",\"usage\":{\"prompt_tokens\":7,\"cost\":0.25}}\n\ndata: [DONE]\n\n";
        assert_eq!(read_stream(text).unwrap(), expected());
        let cut = text.replace("data: [DONE]\n\n", "");
        assert!(matches!(read_stream(&cut), Err(AskError::Incomplete("[DONE]"))));
    }

    #[test]
    fn an_error_inside_a_stream_is_an_error() {
        let text = "data: {\"error\":{\"message\":\"too late\"}}\n\ndata: [DONE]\n\n";
        assert!(matches!(read_stream(text), Err(AskError::Refused { message, .. }) if message == "too late"));
    }
}
