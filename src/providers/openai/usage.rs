//! OpenAI-shaped usage, with the additions of those who speak it.

use serde_json::Value;

use crate::completion::Usage;

/// Brings `usage` to our rule: input includes what was cached, output includes reasoning.
///
/// OpenAI counts both that way. DeepSeek tells its cache hits beside the prompt, xAI counts reasoning outside of the
/// completion, OpenRouter adds what it wrote to a cache.
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

    #[test]
    fn every_dialect_comes_to_one_rule() {
        let openai = json!({"prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 7}});
        let usage = read(&openai).unwrap();
        assert_eq!(
            (usage.input, usage.cached_input, usage.output, usage.reasoning),
            (2006, 1920, 300, 128)
        );
        assert_eq!((usage.audio_input, usage.audio_output), (5, 7));

        let deepseek = json!({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
            "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36});
        assert_eq!(read(&deepseek).unwrap().cached_input, 64);

        let xai = json!({"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 140,
            "completion_tokens_details": {"reasoning_tokens": 100}});
        let usage = read(&xai).unwrap();
        assert_eq!((usage.output, usage.reasoning), (110, 100));

        let openrouter = json!({"prompt_tokens": 100, "completion_tokens": 2, "cost": 0.1,
            "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 50}});
        let usage = read(&openrouter).unwrap();
        assert_eq!((usage.cached_input, usage.cache_write_5m), (10, 50));
        assert_eq!(extra(openrouter).unwrap().get("cost"), None);
    }

    #[test]
    fn empty_or_odd_usage_is_none() {
        assert_eq!(read(&json!({})), None);
        assert_eq!(read(&json!({"prompt_tokens": null})), None);
    }
}
