//! From chat's answers to Responses.

use serde_json::{Map, Value, json};

use crate::server::inbound::{Dialect, Events, id_with};

/// Says one answer.
pub struct Speaker {
    echo: Map<String, Value>,
    /// The answer without its output, once it has begun.
    frame: Option<Value>,
    sequence: u64,
    /// Items that are complete.
    output: Vec<Value>,
    open: Open,
    finish: Option<String>,
    is_over: bool,
}

/// The item that is being said.
#[derive(Default)]
enum Open {
    #[default]
    Nothing,
    /// Text or a refusal.
    Message {
        text: String,
        is_refusal: bool,
    },
    Reasoning(String),
    Call {
        place: u64,
        id: Value,
        name: Value,
        arguments: String,
    },
}

impl Speaker {
    /// For a request that said this.
    pub fn new(echo: Map<String, Value>) -> Self {
        Self {
            echo,
            frame: None,
            sequence: 0,
            output: Vec::new(),
            open: Open::Nothing,
            finish: None,
            is_over: false,
        }
    }

    /// The answer's own fields.
    fn frame(&self, chat: &Value) -> Value {
        let mut frame = json!({
            "id": id_with("resp_", chat), "object": "response", "created_at": chat["created"], "status": "in_progress",
            "background": false, "error": null, "incomplete_details": null, "model": chat["model"], "output": [],
            "previous_response_id": null, "store": false, "usage": null,
        });
        for (key, value) in &self.echo {
            frame[key] = value.clone();
        }
        frame
    }

    /// The frame of an answer that is complete.
    fn ended(&self, mut frame: Value, usage: &Value, metadata: Option<&Value>) -> Value {
        let reason = match self.finish.as_deref() {
            Some("length") => Some("max_output_tokens"),
            Some("content_filter") => Some("content_filter"),
            _ => None,
        };
        frame["status"] = reason.map_or("completed", |_| "incomplete").into();
        if let Some(reason) = reason {
            frame["incomplete_details"] = json!({"reason": reason});
        }
        frame["output"] = self.output.clone().into();
        frame["usage"] = self::usage(usage);
        if let Some(metadata) = metadata {
            frame["router_metadata"] = metadata.clone();
        }
        frame
    }

    fn item_id(&self, prefix: &str) -> String {
        let id = self.frame.as_ref().and_then(|frame| frame["id"].as_str());
        let own = id.unwrap_or_default().trim_start_matches("resp_");
        format!("{prefix}_{own}_{}", self.output.len())
    }
}

impl Dialect for Speaker {
    fn whole(&mut self, answer: &Value) -> Value {
        let frame = self.frame(answer);
        self.frame = Some(frame.clone());
        let choice = &answer["choices"][0];
        let message = &choice["message"];
        self.finish = choice["finish_reason"].as_str().map(str::to_owned);
        // The same items as a stream's, without its events.
        let mut unheard = Events::default();
        let reasoning = reasoning(message);
        if !reasoning.is_empty() {
            self.open = Open::Reasoning(reasoning.to_owned());
            self.close(&mut unheard);
        }
        for (text, is_refusal) in [(said(message), false), (refusal(message).to_owned(), true)] {
            if !text.is_empty() {
                self.open = Open::Message { text, is_refusal };
                self.close(&mut unheard);
            }
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            self.open = Open::Call {
                place: 0,
                id: call["id"].clone(),
                name: call["function"]["name"].clone(),
                arguments: call["function"]["arguments"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            };
            self.close(&mut unheard);
        }
        self.ended(frame, &answer["usage"], answer.get("router_metadata"))
    }

    fn chunk(&mut self, chunk: &Value, out: &mut Events) {
        if self.is_over {
            return;
        }
        if self.frame.is_none() {
            let frame = self.frame(chunk);
            self.frame = Some(frame.clone());
            self.push("response.created", json!({"response": frame}), out);
            self.push("response.in_progress", json!({"response": frame}), out);
        }
        if chunk["error"].is_object() {
            self.fail(&chunk["error"], out);
            return;
        }
        let first = &chunk["choices"][0];
        if first.is_object() {
            self.delta(&first["delta"], out);
            if let Some(word) = first["finish_reason"].as_str() {
                self.finish.get_or_insert_with(|| word.to_owned());
            }
        }
        if chunk["usage"].is_object() {
            self.close(out);
            self.is_over = true;
            let frame = self.frame.clone().unwrap_or_default();
            let ended = self.ended(frame, &chunk["usage"], chunk.get("router_metadata"));
            let name = if ended["status"] == "completed" {
                "response.completed"
            } else {
                "response.incomplete"
            };
            self.push(name, json!({"response": ended}), out);
        }
    }

    fn keepalive(&mut self, out: &mut Events) {
        out.comment("keepalive");
    }
}

impl Speaker {
    fn push(&mut self, name: &str, mut data: Value, out: &mut Events) {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        out.push(name, &data);
    }

    fn fail(&mut self, error: &Value, out: &mut Events) {
        self.is_over = true;
        self.push(
            "error",
            json!({"code": error["code"], "message": error["message"], "param": error["param"]}),
            out,
        );
        let mut frame = self.frame.clone().unwrap_or_default();
        frame["status"] = "failed".into();
        frame["error"] = json!({"code": error["code"], "message": error["message"]});
        frame["output"] = self.output.clone().into();
        self.push("response.failed", json!({"response": frame}), out);
    }

    fn delta(&mut self, delta: &Value, out: &mut Events) {
        let thought = reasoning(delta);
        if !thought.is_empty() {
            self.think(thought, out);
        }
        for (text, is_refusal) in [(said(delta), false), (refusal(delta).to_owned(), true)] {
            if !text.is_empty() {
                self.say(&text, is_refusal, out);
            }
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call(call, out);
        }
    }

    fn think(&mut self, thought: &str, out: &mut Events) {
        if !matches!(self.open, Open::Reasoning(_)) {
            self.close(out);
            self.open = Open::Reasoning(String::new());
            let (id, index) = (self.item_id("rs"), self.output.len());
            let item = json!({"id": id, "type": "reasoning", "summary": []});
            self.push(
                "response.output_item.added",
                json!({"output_index": index, "item": item}),
                out,
            );
            let part = json!({"type": "summary_text", "text": ""});
            let added = json!({"item_id": id, "output_index": index, "summary_index": 0, "part": part});
            self.push("response.reasoning_summary_part.added", added, out);
        }
        if let Open::Reasoning(whole) = &mut self.open {
            whole.push_str(thought);
        }
        let (id, index) = (self.item_id("rs"), self.output.len());
        let piece = json!({"item_id": id, "output_index": index, "summary_index": 0, "delta": thought});
        self.push("response.reasoning_summary_text.delta", piece, out);
    }

    fn say(&mut self, text: &str, is_refusal: bool, out: &mut Events) {
        let is_open = matches!(&self.open, Open::Message { is_refusal: open, .. } if *open == is_refusal);
        if !is_open {
            self.close(out);
            self.open = Open::Message {
                text: String::new(),
                is_refusal,
            };
            let (id, index) = (self.item_id("msg"), self.output.len());
            let item = json!({"id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": []});
            self.push(
                "response.output_item.added",
                json!({"output_index": index, "item": item}),
                out,
            );
            let part = content("", is_refusal);
            let added = json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
            self.push("response.content_part.added", added, out);
        }
        if let Open::Message { text: whole, .. } = &mut self.open {
            whole.push_str(text);
        }
        let mut piece = json!({
            "item_id": self.item_id("msg"), "output_index": self.output.len(), "content_index": 0, "delta": text,
        });
        if is_refusal {
            self.push("response.refusal.delta", piece, out);
        } else {
            piece["logprobs"] = json!([]);
            self.push("response.output_text.delta", piece, out);
        }
    }

    fn call(&mut self, call: &Value, out: &mut Events) {
        let wanted = call["index"].as_u64().unwrap_or(0);
        let is_open = matches!(&self.open, Open::Call { place, .. } if *place == wanted);
        if !is_open {
            self.close(out);
            let (id, name) = (call["id"].clone(), call["function"]["name"].clone());
            let item = function_call(&self.item_id("fc"), &id, &name, "", "in_progress");
            let added = json!({"output_index": self.output.len(), "item": item});
            self.push("response.output_item.added", added, out);
            self.open = Open::Call {
                place: wanted,
                id,
                name,
                arguments: String::new(),
            };
        }
        let more = call["function"]["arguments"].as_str().unwrap_or_default();
        if more.is_empty() {
            return;
        }
        if let Open::Call { arguments, .. } = &mut self.open {
            arguments.push_str(more);
        }
        let piece = json!({"item_id": self.item_id("fc"), "output_index": self.output.len(), "delta": more});
        self.push("response.function_call_arguments.delta", piece, out);
    }

    /// Ends the open item.
    fn close(&mut self, out: &mut Events) {
        let index = self.output.len();
        let item = match std::mem::take(&mut self.open) {
            Open::Nothing => return,
            Open::Message { text, is_refusal } => {
                let id = self.item_id("msg");
                let part = content(&text, is_refusal);
                let mut done = json!({"item_id": id, "output_index": index, "content_index": 0});
                let (name, key) = if is_refusal {
                    ("response.refusal.done", "refusal")
                } else {
                    done["logprobs"] = json!([]);
                    ("response.output_text.done", "text")
                };
                done[key] = text.into();
                self.push(name, done, out);
                let done = json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
                self.push("response.content_part.done", done, out);
                json!({"id": id, "type": "message", "status": "completed", "role": "assistant", "content": [part]})
            }
            Open::Reasoning(text) => {
                let id = self.item_id("rs");
                let part = json!({"type": "summary_text", "text": text});
                let at = json!({"item_id": id, "output_index": index, "summary_index": 0});
                let (mut done, mut part_done) = (at.clone(), at);
                done["text"] = text.into();
                part_done["part"] = part.clone();
                self.push("response.reasoning_summary_text.done", done, out);
                self.push("response.reasoning_summary_part.done", part_done, out);
                json!({"id": id, "type": "reasoning", "summary": [part]})
            }
            Open::Call {
                id, name, arguments, ..
            } => {
                let item_id = self.item_id("fc");
                let done = json!({
                    "item_id": item_id, "output_index": index, "name": name, "arguments": arguments,
                });
                self.push("response.function_call_arguments.done", done, out);
                function_call(&item_id, &id, &name, &arguments, "completed")
            }
        };
        self.push(
            "response.output_item.done",
            json!({"output_index": index, "item": item}),
            out,
        );
        self.output.push(item);
    }
}

fn function_call(item_id: &str, id: &Value, name: &Value, arguments: &str, status: &str) -> Value {
    json!({
        "id": item_id, "type": "function_call", "status": status, "call_id": id, "name": name, "arguments": arguments,
    })
}

fn content(text: &str, is_refusal: bool) -> Value {
    if is_refusal {
        json!({"type": "refusal", "refusal": text})
    } else {
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    }
}

/// Visible text: a string, or the texts of a list of parts.
fn said(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

fn refusal(message: &Value) -> &str {
    message["refusal"].as_str().unwrap_or_default()
}

fn reasoning(message: &Value) -> &str {
    let text = |key: &str| message[key].as_str();
    text("reasoning_content")
        .or_else(|| text("reasoning"))
        .unwrap_or_default()
}

fn usage(chat: &Value) -> Value {
    let mut usage = json!({
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": chat["prompt_tokens_details"]["cached_tokens"]},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": chat["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": chat["total_tokens"],
    });
    for key in ["cost", "estimated"] {
        if let Some(value) = chat.get(key) {
            usage[key] = value.clone();
        }
    }
    usage
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
