//! How four providers count and bill, each by its own documentation, written without looking at how the router does
//! it. Prices are whole pico-dollars a token ($1 per million tokens is 1,000,000 of them); a bill is rounded once.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Who bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum House {
    /// Cached tokens and reasoning are counted inside.
    OpenAi,
    /// Cache reads and writes are counted beside the prompt, writes by their life.
    Anthropic,
    /// Cached tokens inside, thoughts outside; dearer above 200,000 tokens.
    Gemini,
    /// Hits and misses; twice the price in its peak hours, in which it is whenever this is asked.
    DeepSeekPeak,
    /// The same outside of them.
    DeepSeekQuiet,
}

pub const HOUSES: [House; 5] = [
    House::OpenAi,
    House::Anthropic,
    House::Gemini,
    House::DeepSeekPeak,
    House::DeepSeekQuiet,
];

/// What a call really used, by what the house knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Prompt tokens that are neither read from nor written to a cache.
    pub fresh: u64,
    pub hit: u64,
    pub written_5m: u64,
    pub written_1h: u64,
    /// Tokens of the visible answer.
    pub said: u64,
    pub thought: u64,
}

impl House {
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::DeepSeekPeak => "peak",
            Self::DeepSeekQuiet => "quiet",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        HOUSES.into_iter().find(|house| house.name() == name)
    }

    pub fn model(self) -> String {
        format!("{}/m", self.name())
    }

    /// The wire format, as the configuration calls it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            _ => "openai",
        }
    }

    /// The list price as a customer writes it down; `peak` are hours that hold now, `quiet` hours that do not.
    pub fn price_toml(self, peak: &str, quiet: &str) -> String {
        match self {
            Self::OpenAi => {
                "input_per_mtok = 1.25\ncached_input_per_mtok = 0.125\noutput_per_mtok = 10.0\n".to_owned()
            }
            Self::Anthropic => "input_per_mtok = 3.0\ncached_input_per_mtok = 0.3\ncache_write_5m_per_mtok = 3.75\n\
                 cache_write_1h_per_mtok = 6.0\noutput_per_mtok = 15.0\n"
                .to_owned(),
            Self::Gemini => "input_per_mtok = 1.25\ncached_input_per_mtok = 0.31\noutput_per_mtok = 10.0\n\
                 tiers = [{ above_tokens = 200000, input_per_mtok = 2.5, cached_input_per_mtok = 0.625, output_per_mtok = 15.0 }]\n"
                .to_owned(),
            Self::DeepSeekPeak => format!("{DEEPSEEK}windows = [{peak}]\n"),
            Self::DeepSeekQuiet => format!("{DEEPSEEK}windows = [{quiet}]\n"),
        }
    }

    /// What call number `call` uses.
    pub fn draw(self, call: u64) -> Used {
        let mut rng = ChaCha8Rng::seed_from_u64(call * 8 + self as u64);
        let mut some = |most: u64| {
            if rng.gen_bool(0.5) {
                rng.gen_range(0..most)
            } else {
                0
            }
        };
        let used = Used {
            fresh: 1 + some(4_000),
            hit: some(3_000),
            written_5m: some(2_000),
            written_1h: some(2_000),
            said: 1 + some(700),
            thought: some(900),
        };
        match self {
            Self::OpenAi | Self::DeepSeekPeak | Self::DeepSeekQuiet => Used {
                written_5m: 0,
                written_1h: 0,
                ..used
            },
            Self::Anthropic => Used { thought: 0, ..used },
            Self::Gemini => Used {
                // A quarter of the prompts reach the dearer tier.
                fresh: used.fresh + if call.is_multiple_of(4) { 199_000 } else { 0 },
                written_5m: 0,
                written_1h: 0,
                ..used
            },
        }
    }

    /// What it bills for that, in nano-dollars.
    pub fn bill(self, used: &Used) -> i64 {
        let Used {
            fresh,
            hit,
            written_5m,
            written_1h,
            said,
            thought,
        } = *used;
        let pico = match self {
            Self::OpenAi => fresh * 1_250_000 + hit * 125_000 + (said + thought) * 10_000_000,
            Self::Anthropic => {
                fresh * 3_000_000
                    + hit * 300_000
                    + written_5m * 3_750_000
                    + written_1h * 6_000_000
                    + said * 15_000_000
            }
            Self::Gemini if fresh + hit > 200_000 => {
                fresh * 2_500_000 + hit * 625_000 + (said + thought) * 15_000_000
            }
            Self::Gemini => fresh * 1_250_000 + hit * 310_000 + (said + thought) * 10_000_000,
            Self::DeepSeekPeak => 2 * (fresh * 140_000 + hit * 2_800 + (said + thought) * 280_000),
            Self::DeepSeekQuiet => fresh * 140_000 + hit * 2_800 + (said + thought) * 280_000,
        };
        i64::try_from((pico + 500) / 1_000).unwrap()
    }

    /// How it tells what a call used.
    pub fn usage(self, used: &Used) -> Value {
        let Used {
            fresh,
            hit,
            written_5m,
            written_1h,
            said,
            thought,
        } = *used;
        match self {
            Self::OpenAi => json!({
                "prompt_tokens": fresh + hit, "completion_tokens": said + thought,
                "total_tokens": fresh + hit + said + thought,
                "prompt_tokens_details": {"cached_tokens": hit, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": 0},
            }),
            Self::Anthropic => json!({
                "input_tokens": fresh, "cache_read_input_tokens": hit,
                "cache_creation_input_tokens": written_5m + written_1h,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": written_5m, "ephemeral_1h_input_tokens": written_1h,
                },
                "output_tokens": said, "service_tier": "standard",
            }),
            Self::Gemini => json!({
                "promptTokenCount": fresh + hit, "cachedContentTokenCount": hit,
                "candidatesTokenCount": said, "thoughtsTokenCount": thought,
                "totalTokenCount": fresh + hit + said + thought,
            }),
            Self::DeepSeekPeak | Self::DeepSeekQuiet => json!({
                "prompt_tokens": fresh + hit, "completion_tokens": said + thought,
                "total_tokens": fresh + hit + said + thought,
                "prompt_cache_hit_tokens": hit, "prompt_cache_miss_tokens": fresh,
                "completion_tokens_details": {"reasoning_tokens": thought},
            }),
        }
    }

    /// A whole answer. `used`: what it tells, if it tells.
    pub fn whole(self, text: &str, used: Option<&Used>) -> Value {
        let (mut answer, key) = match self {
            Self::Anthropic => (
                json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
                    "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null}),
                "usage",
            ),
            Self::Gemini => (self.gemini(text, true), "usageMetadata"),
            _ => (
                json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
                    "choices": [{"index": 0, "finish_reason": "stop",
                                 "message": {"role": "assistant", "content": text}}]}),
                "usage",
            ),
        };
        if let Some(used) = used {
            answer[key] = self.usage(used);
        }
        answer
    }

    /// What a stream begins with.
    pub fn opening(self, used: Option<&Used>) -> String {
        match self {
            Self::Anthropic => {
                let mut message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
                    "content": [], "stop_reason": null});
                if let Some(used) = used {
                    message["usage"] = self.usage(&Used { said: 1, ..*used });
                }
                let start = json!({"type": "message_start", "message": message});
                let block = json!({"type": "content_block_start", "index": 0,
                    "content_block": {"type": "text", "text": ""}});
                format!(
                    "event: message_start\ndata: {start}\n\nevent: content_block_start\ndata: {block}\n\n"
                )
            }
            Self::Gemini => String::new(),
            _ => data(&chunk(json!({"role": "assistant", "content": ""}), Value::Null)),
        }
    }

    /// A piece of a stream.
    pub fn piece(self, text: &str, used: Option<&Used>) -> String {
        match self {
            Self::Anthropic => {
                let delta = json!({"type": "content_block_delta", "index": 0,
                    "delta": {"type": "text_delta", "text": text}});
                format!("event: content_block_delta\ndata: {delta}\n\n")
            }
            Self::Gemini => {
                let mut piece = self.gemini(text, false);
                if let Some(used) = used {
                    // The prompt is told with every piece, the answer when it is done.
                    piece["usageMetadata"] = self.usage(&Used {
                        said: 0,
                        thought: 0,
                        ..*used
                    });
                }
                data(&piece)
            }
            _ => data(&chunk(json!({"content": text}), Value::Null)),
        }
    }

    /// A stream's end.
    pub fn closing(self, used: Option<&Used>) -> String {
        match self {
            Self::Anthropic => {
                let mut delta = json!({"type": "message_delta",
                    "delta": {"stop_reason": "end_turn", "stop_sequence": null}});
                if let Some(used) = used {
                    delta["usage"] = json!({"output_tokens": used.said});
                }
                format!(
                    "event: content_block_stop\ndata: {}\n\nevent: message_delta\ndata: {delta}\n\n\
                     event: message_stop\ndata: {}\n\n",
                    json!({"type": "content_block_stop", "index": 0}),
                    json!({"type": "message_stop"}),
                )
            }
            Self::Gemini => {
                let mut last = self.gemini("", true);
                if let Some(used) = used {
                    last["usageMetadata"] = self.usage(used);
                }
                data(&last)
            }
            _ => {
                let mut end = data(&chunk(json!({}), json!("stop")));
                if let Some(used) = used {
                    let mut last = chunk(json!({}), Value::Null);
                    last["choices"] = json!([]);
                    last["usage"] = self.usage(used);
                    end += &data(&last);
                }
                end + "data: [DONE]\n\n"
            }
        }
    }

    fn gemini(self, text: &str, last: bool) -> Value {
        let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": [{"text": text}]}});
        if last {
            candidate["finishReason"] = json!("STOP");
        }
        json!({"candidates": [candidate], "responseId": "r", "modelVersion": "m"})
    }
}

const DEEPSEEK: &str = "input_per_mtok = 0.14\ncached_input_per_mtok = 0.0028\noutput_per_mtok = 0.28\n";

fn chunk(delta: Value, finish: Value) -> Value {
    json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}
