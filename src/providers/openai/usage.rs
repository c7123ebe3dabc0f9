//! OpenAI-shaped usage, with the additions of those who speak it.

use serde_json::Value;

use crate::completion::Usage;

/// Brings `usage` to our rule: input includes what was cached, output includes reasoning.
///
/// OpenAI counts both that way. DeepSeek tells its cache hits beside the prompt, xAI counts reasoning outside of the
/// completion, OpenRouter and Qwen add what they wrote to a cache.
pub(super) fn read(usage: &Value) -> Option<Usage> {
    // Not by `Value::pointer`, which allocates for every step.
    let count = |path: &str| {
        let mut steps = path.split('/').skip(1);
        steps
            .try_fold(usage, |value, step| value.get(step))
            .and_then(Value::as_u64)
    };
    let any = |paths: &[&str]| paths.iter().find_map(|path| count(path));
    let input = any(&["/prompt_tokens", "/input_tokens"]);
    let output = any(&["/completion_tokens", "/output_tokens"]);
    if input.is_none() && output.is_none() {
        return None;
    }
    let (input, mut output) = (input.unwrap_or(0), output.unwrap_or(0));
    let reasoning = any(&[
        "/completion_tokens_details/reasoning_tokens",
        "/output_tokens_details/reasoning_tokens",
    ])
    .unwrap_or(0);
    if reasoning > 0 && count("/total_tokens") == Some(input + output + reasoning) {
        output += reasoning;
    }
    let cached = any(&[
        "/prompt_tokens_details/cached_tokens",
        "/input_tokens_details/cached_tokens",
        "/prompt_cache_hit_tokens",
        "/cached_tokens",
        "/num_cached_tokens",
    ])
    .unwrap_or(0)
    .min(input);
    let written = any(&[
        "/prompt_tokens_details/cache_write_tokens",
        "/prompt_tokens_details/cache_creation_tokens",
        "/prompt_tokens_details/cache_creation_input_tokens",
        "/prompt_tokens_details/cache_creation/ephemeral_5m_input_tokens",
        "/prompt_tokens_details/cache_creation/cache_creation_input_tokens",
        "/input_tokens_details/cache_write_tokens",
    ])
    .unwrap_or(0)
    .min(input - cached);
    Some(Usage {
        input,
        cached_input: cached,
        cache_write_5m: written,
        cache_write_1h: 0,
        audio_input: count("/prompt_tokens_details/audio_tokens").unwrap_or(0),
        output,
        reasoning: reasoning.min(output),
        audio_output: count("/completion_tokens_details/audio_tokens").unwrap_or(0),
        estimated: false,
    })
}

/// The usage as sent, without what the provider says it cost: the cost that is told is ours.
pub(super) fn extra(mut usage: Value) -> Option<Value> {
    let fields = usage.as_object_mut()?;
    fields.shift_remove("cost");
    fields.shift_remove("cost_details");
    Some(usage)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Input, cached, written, audio in, output, reasoning, audio out.
    type Counts = [u64; 7];

    fn counts(usage: &Value) -> Counts {
        let usage = read(usage).unwrap();
        assert_eq!(usage.cache_write_1h, 0);
        [
            usage.input,
            usage.cached_input,
            usage.cache_write_5m,
            usage.audio_input,
            usage.output,
            usage.reasoning,
            usage.audio_output,
        ]
    }

    /// As the providers' documentation shows it.
    #[test]
    fn every_dialect_comes_to_one_rule() {
        let cases: [(&str, Value, Counts); 12] = [
            (
                "OpenAI, prompt caching",
                json!({"prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
                    "prompt_tokens_details": {"cached_tokens": 1920},
                    "completion_tokens_details": {"reasoning_tokens": 0, "accepted_prediction_tokens": 0,
                        "rejected_prediction_tokens": 0}}),
                [2006, 1920, 0, 0, 300, 0, 0],
            ),
            (
                "OpenAI, reasoning, as its newer endpoint tells it",
                json!({"input_tokens": 75, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 1186,
                    "output_tokens_details": {"reasoning_tokens": 1024}, "total_tokens": 1261}),
                [75, 0, 0, 0, 1186, 1024, 0],
            ),
            (
                "OpenAI, sound in and out",
                json!({"prompt_tokens": 117, "completion_tokens": 83, "total_tokens": 200,
                    "prompt_tokens_details": {"cached_tokens": 0, "text_tokens": 17, "audio_tokens": 100},
                    "completion_tokens_details": {"reasoning_tokens": 0, "text_tokens": 16, "audio_tokens": 67}}),
                [117, 0, 0, 100, 83, 0, 67],
            ),
            (
                "OpenAI, cache writes",
                json!({"prompt_tokens": 3000, "completion_tokens": 10, "total_tokens": 3010,
                    "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 1536}}),
                [3000, 1024, 1536, 0, 10, 0, 0],
            ),
            (
                "DeepSeek",
                json!({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
                    "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36,
                    "completion_tokens_details": {"reasoning_tokens": 12}}),
                [100, 64, 0, 0, 20, 12, 0],
            ),
            (
                "Mistral",
                json!({"prompt_tokens": 32617, "completion_tokens": 5, "total_tokens": 32622,
                    "num_cached_tokens": 32592, "prompt_tokens_details": {"cached_tokens": 32592}}),
                [32617, 32592, 0, 0, 5, 0, 0],
            ),
            (
                "Qwen, implicit cache",
                json!({"prompt_tokens": 3019, "completion_tokens": 104, "total_tokens": 3123,
                    "prompt_tokens_details": {"cached_tokens": 2048}}),
                [3019, 2048, 0, 0, 104, 0, 0],
            ),
            (
                "Qwen, explicit cache written",
                json!({"prompt_tokens": 2059, "completion_tokens": 201, "total_tokens": 2260,
                    "prompt_tokens_details": {"cached_tokens": 0, "text_tokens": 2059, "cache_type": "ephemeral",
                        "cache_creation_input_tokens": 2048,
                        "cache_creation": {"ephemeral_5m_input_tokens": 2048}},
                    "completion_tokens_details": {"reasoning_tokens": 170}}),
                [2059, 0, 2048, 0, 201, 170, 0],
            ),
            (
                "Qwen, explicit cache read and written",
                json!({"prompt_tokens": 1524, "completion_tokens": 1534, "total_tokens": 3058,
                    "prompt_tokens_details": {"cached_tokens": 1305,
                        "cache_creation": {"ephemeral_5m_input_tokens": 213}}}),
                [1524, 1305, 213, 0, 1534, 0, 0],
            ),
            (
                "xAI, whose reasoning is beside the answer",
                json!({"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 140,
                    "completion_tokens_details": {"reasoning_tokens": 100}}),
                [30, 0, 0, 0, 110, 100, 0],
            ),
            (
                "OpenRouter",
                json!({"prompt_tokens": 100, "completion_tokens": 2, "cost": 0.1,
                    "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 50}}),
                [100, 10, 50, 0, 2, 0, 0],
            ),
            (
                "Moonshot",
                json!({"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102, "cached_tokens": 30}),
                [100, 30, 0, 0, 2, 0, 0],
            ),
        ];
        for (name, usage, expected) in cases {
            assert_eq!(counts(&usage), expected, "{name}");
        }
    }

    #[test]
    fn what_a_provider_says_it_cost_is_not_passed_on() {
        let usage = json!({"prompt_tokens": 100, "cost": 0.1, "cost_details": {}, "queue_time": 1});
        assert_eq!(extra(usage), Some(json!({"prompt_tokens": 100, "queue_time": 1})));
    }

    #[test]
    fn empty_or_odd_usage_is_none() {
        assert_eq!(read(&json!({})), None);
        assert_eq!(read(&json!({"prompt_tokens": null})), None);
    }
}
