use http::HeaderValue;

use super::*;
use FailureKind as Kind;
use FaultSource::{Client, Credentials, Upstream};
use Retry::{NextArm, No, SameArm, WithoutThoughts};

fn wire() -> Wire {
    Wire {
        provider: "acme".into(),
    }
}

fn classified(status: u16, body: &str) -> AttemptError {
    classify(
        &wire(),
        &Answered {
            status: Some(status),
            headers: None,
            body: body.as_bytes(),
        },
    )
}

/// Status, body, and what it must mean. The bodies follow the providers' documented errors.
#[test]
#[rustfmt::skip]
fn meaning_goes_before_code() {
    let cases: &[(u16, &str, Kind, FaultSource, Retry)] = &[
        // OpenAI
        (429, r#"{"error":{"message":"Rate limit reached for gpt-4o. Please try again in 20ms.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#, Kind::RateLimitExceeded, Upstream, SameArm),
        (429, r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","code":"insufficient_quota"}}"#, Kind::RateLimitExceeded, Credentials, NextArm),
        (429, r#"{"error":{"message":"Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 50000.","type":"tokens","code":"rate_limit_exceeded"}}"#, Kind::RateLimitExceeded, Client, NextArm),
        (429, r#"{"error":{"message":"The engine is currently overloaded, please try again later","type":"server_error"}}"#, Kind::ProviderOverloaded, Upstream, SameArm),
        (400, r#"{"error":{"message":"This model's maximum context length is 128000 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#, Kind::ContextLengthExceeded, Client, NextArm),
        (400, r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model.","type":"invalid_request_error","code":"unsupported_parameter"}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"error":{"message":"Invalid type for 'messages'.","type":"invalid_request_error","code":null}}"#, Kind::InvalidRequest, Client, No),
        (400, r#"{"error":{"message":"max_tokens is too large: 32768. This model supports at most 16384 completion tokens.","type":"invalid_request_error","param":"max_tokens","code":"invalid_value"}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"error":{"message":"Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens.","type":"invalid_request_error"}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"error":{"message":"Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array with length 130 instead.","type":"invalid_request_error","param":"tools","code":"array_above_max_length"}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"error":{"message":"'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.","type":"invalid_request_error","param":"messages","code":null}}"#, Kind::InvalidRequest, Client, NextArm),
        (401, r#"{"error":{"message":"Incorrect API key provided: sk-abc***xyz.","type":"invalid_request_error","code":"invalid_api_key"}}"#, Kind::ProviderUnavailable, Credentials, NextArm),
        (403, r#"{"error":{"message":"Project `p` does not have access to model `m`","type":"invalid_request_error","code":"model_not_found"}}"#, Kind::ProviderUnavailable, Upstream, NextArm),
        (403, r#"{"error":{"message":"Country, region, or territory not supported","code":"unsupported_country_region_territory"}}"#, Kind::ProviderUnavailable, Credentials, NextArm),
        (404, r#"{"error":{"message":"The model `gpt-9` does not exist","type":"invalid_request_error","code":"model_not_found"}}"#, Kind::ProviderUnavailable, Upstream, NextArm),
        (500, r#"{"error":{"message":"The server had an error","type":"server_error"}}"#, Kind::ProviderUnavailable, Upstream, SameArm),
        (503, r#"{"error":{"message":"Slow down","type":"server_error","code":"slow_down"}}"#, Kind::RateLimitExceeded, Upstream, SameArm),
        // Azure
        (400, r#"{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","code":"content_filter","status":400}}"#, Kind::ContentPolicyViolation, Client, NextArm),
        // DeepSeek
        (402, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}"#, Kind::RateLimitExceeded, Credentials, NextArm),
        (400, r#"{"error":{"message":"Content Exists Risk","type":"invalid_request_error"}}"#, Kind::ContentPolicyViolation, Client, NextArm),
        (400, r#"{"error":{"message":"The `reasoning_content` in the thinking mode must be passed back to the API.","type":"invalid_request_error"}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error"}}"#, Kind::ProviderUnavailable, Upstream, NextArm),
        // Qwen
        (400, r#"{"error":{"code":"data_inspection_failed","message":"Input data may contain inappropriate content.","type":"data_inspection_failed"}}"#, Kind::ContentPolicyViolation, Client, NextArm),
        (400, r#"{"error":{"message":"Range of input length should be [1, 30720]","type":"invalid_request_error","code":"invalid_parameter_error"}}"#, Kind::ContextLengthExceeded, Client, NextArm),
        (400, r#"{"error":{"code":"Arrearage","message":"Access denied, please make sure your account is in good standing."}}"#, Kind::RateLimitExceeded, Credentials, NextArm),
        // Mistral
        (422, r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","x"],"msg":"Extra inputs are not permitted"}]},"type":"invalid_request_error"}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"object":"error","message":"Prompt contains 39000 tokens, too large for model with 32768 maximum context length","type":"invalid_request_prompt"}"#, Kind::ContextLengthExceeded, Client, NextArm),
        (400, r#"{"object":"error","message":"Unexpected role 'user' after role 'tool'","type":"invalid_request_message_order","code":"3230"}"#, Kind::InvalidRequest, Client, NextArm),
        (429, r#"{"message":"Requests rate limit exceeded"}"#, Kind::RateLimitExceeded, Upstream, SameArm),
        // vLLM
        (400, r#"{"object":"error","message":"The decoder prompt (length 9000) is longer than the maximum model length of 8192.","type":"BadRequestError","code":400}"#, Kind::ContextLengthExceeded, Client, NextArm),
        (400, r#"{"object":"error","message":"After the optional system message, conversation roles must alternate user/assistant/user/assistant/...","type":"BadRequestError","code":400}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"object":"error","message":"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set","type":"BadRequestError","code":400}"#, Kind::InvalidRequest, Client, NextArm),
        // llama.cpp, TGI, Groq
        (400, r#"{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error"}}"#, Kind::ContextLengthExceeded, Client, NextArm),
        (422, r#"{"error":"Input validation error: `inputs` must have less than 4095 tokens. Given: 5000","error_type":"validation"}"#, Kind::ContextLengthExceeded, Client, NextArm),
        (400, r#"{"error":{"message":"Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details.","type":"invalid_request_error","code":"tool_use_failed","failed_generation":"x"}}"#, Kind::InvalidRequest, Client, NextArm),
        (404, r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","code":404}"#, Kind::ProviderUnavailable, Upstream, NextArm),
        // OpenRouter
        (402, r#"{"error":{"code":402,"message":"This request requires more credits, or fewer max_tokens."}}"#, Kind::RateLimitExceeded, Credentials, NextArm),
        (404, r#"{"error":{"code":404,"message":"No endpoints found that support image input"}}"#, Kind::InvalidRequest, Client, NextArm),
        (403, r#"{"error":{"code":403,"message":"Your chosen model requires moderation and your input was flagged","metadata":{"reasons":["violence"]}}}"#, Kind::ContentPolicyViolation, Client, NextArm),
        (502, r#"{"error":{"code":502,"message":"Provider returned error","metadata":{"raw":"{\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}"}}}"#, Kind::ProviderOverloaded, Upstream, SameArm),
        // Anthropic
        (529, r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#, Kind::ProviderOverloaded, Upstream, SameArm),
        (429, r#"{"type":"error","error":{"type":"rate_limit_error","message":"Number of request tokens has exceeded your per-minute rate limit"}}"#, Kind::RateLimitExceeded, Upstream, SameArm),
        (429, r#"{"type":"error","error":{"type":"rate_limit_error","error_code":"enforced_spend_limit_reached","message":"Limit reached"}}"#, Kind::RateLimitExceeded, Credentials, NextArm),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#, Kind::RateLimitExceeded, Credentials, NextArm),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#, Kind::ContextLengthExceeded, Client, NextArm),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}"#, Kind::ContentPolicyViolation, Client, NextArm),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages.1.content.0: Invalid `signature` in `thinking` block"}}"#, Kind::InvalidRequest, Client, WithoutThoughts),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages.1.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified."}}"#, Kind::InvalidRequest, Client, WithoutThoughts),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `text`. When `thinking` is enabled, a final `assistant` message must start with a thinking block."}}"#, Kind::InvalidRequest, Client, WithoutThoughts),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: 65536 > 32768, which is the maximum allowed number of output tokens for claude-x"}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages.0.content.1.image.source.base64: image exceeds 5 MB maximum"}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"`temperature` and `top_p` cannot both be specified for this model."}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."}}"#, Kind::ProviderUnavailable, Credentials, NextArm),
        (413, r#"{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#, Kind::PayloadTooLarge, Client, NextArm),
        (401, r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#, Kind::ProviderUnavailable, Credentials, NextArm),
        (403, r#"{"type":"error","error":{"type":"permission_error","message":"no"}}"#, Kind::ProviderUnavailable, Credentials, NextArm),
        (404, r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-0"}}"#, Kind::ProviderUnavailable, Upstream, NextArm),
        (504, r#"{"type":"error","error":{"type":"timeout_error","message":"Request timed out"}}"#, Kind::Timeout, Upstream, NextArm),
        (500, r#"{"type":"error","error":{"type":"api_error","message":"Internal server error"}}"#, Kind::ProviderUnavailable, Upstream, SameArm),
        // Gemini
        (429, r#"{"error":{"code":429,"message":"You exceeded your current quota, please check your plan.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34s"}]}}"#, Kind::RateLimitExceeded, Upstream, SameArm),
        (429, r#"{"error":{"code":429,"message":"You exceeded your current quota.","status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"retryDelay":"34s"}]}}"#, Kind::RateLimitExceeded, Credentials, NextArm),
        (400, r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}"#, Kind::ProviderUnavailable, Credentials, NextArm),
        (400, r#"{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}"#, Kind::ContextLengthExceeded, Client, NextArm),
        (400, r#"{"error":{"code":400,"message":"User location is not supported for the API use.","status":"FAILED_PRECONDITION"}}"#, Kind::ProviderUnavailable, Credentials, NextArm),
        (400, r#"{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"foo\"","status":"INVALID_ARGUMENT"}}"#, Kind::InvalidRequest, Client, NextArm),
        (503, r#"{"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}}"#, Kind::ProviderOverloaded, Upstream, SameArm),
        (504, r#"{"error":{"code":504,"message":"Deadline expired","status":"DEADLINE_EXCEEDED"}}"#, Kind::Timeout, Upstream, NextArm),
        (404, r#"{"error":{"code":404,"message":"models/x is not found for API version v1beta, or is not supported for generateContent.","status":"NOT_FOUND"}}"#, Kind::ProviderUnavailable, Upstream, NextArm),
        (400, r#"{"error":{"code":400,"message":"Corrupted thought signature.","status":"INVALID_ARGUMENT"}}"#, Kind::InvalidRequest, Client, WithoutThoughts),
        (400, r#"{"error":{"code":400,"message":"Unable to submit request because Thought signature is not valid.. Learn more:","status":"INVALID_ARGUMENT"}}"#, Kind::InvalidRequest, Client, WithoutThoughts),
        (400, r#"{"error":{"code":400,"message":"Function call is missing a thought_signature in functionCall parts.","status":"INVALID_ARGUMENT"}}"#, Kind::InvalidRequest, Client, WithoutThoughts),
        (400, r#"{"error":{"code":400,"message":"Please ensure that function call turn comes immediately after a user turn or after a function response turn.","status":"INVALID_ARGUMENT"}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"error":{"code":400,"message":"* GenerateContentRequest.tools[0].function_declarations[0].parameters.properties: should be non-empty for OBJECT type","status":"INVALID_ARGUMENT"}}"#, Kind::InvalidRequest, Client, NextArm),
        (400, r#"{"error":{"code":400,"message":"Gemini API free tier is not available in your country. Please enable billing.","status":"FAILED_PRECONDITION"}}"#, Kind::ProviderUnavailable, Credentials, NextArm),
        // A 400 that is a rate limit, and what stands between us and a provider
        (400, r#"{"error":{"message":"Too many requests, rate limit exceeded","type":"invalid_request_error"}}"#, Kind::RateLimitExceeded, Upstream, SameArm),
        (502, "<html><body>Bad Gateway</body></html>", Kind::ProviderUnavailable, Upstream, SameArm),
        (524, "error code: 524", Kind::Timeout, Upstream, NextArm),
        (302, "", Kind::ProviderUnavailable, Upstream, SameArm),
    ];
    for (status, body, kind, fault, retry) in cases {
        let error = classified(*status, body);
        assert_eq!((error.kind, error.fault, error.retry), (*kind, *fault, *retry), "{status} {body}");
        let quota = *kind == Kind::RateLimitExceeded && *fault == Credentials;
        assert_eq!(error.quota_exhausted, quota, "{status} {body}");
        assert!(error.message.starts_with("acme "), "{}", error.message);
        assert!(!error.message.contains(&status.to_string()), "{}", error.message);
        assert!(!error.message.contains("sk-"), "{}", error.message);
    }
}

#[test]
fn an_error_inside_an_answer_means_the_same() {
    let wire = wire();
    let body = br#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    assert_eq!(inside(&wire, body).kind, Kind::ProviderOverloaded);
    let body = br#"{"error":{"code":429,"message":"Rate limited"}}"#;
    assert_eq!(inside_200(&wire, body).unwrap().kind, Kind::RateLimitExceeded);
    let body = br#"{"error":{"message":"upstream broke","code":502}}"#;
    assert_eq!(inside_200(&wire, body).unwrap().kind, Kind::ProviderUnavailable);
    assert!(inside_200(&wire, br#"{"error":null,"choices":[]}"#).is_none());
}

#[test]
fn the_wait_is_read_from_headers_and_bodies() {
    let mut headers = HeaderMap::new();
    headers.insert("retry-after", HeaderValue::from_static("3"));
    let answered = Answered {
        status: Some(429),
        headers: Some(&headers),
        body: b"{}",
    };
    let error = classify(&wire(), &answered);
    assert_eq!(error.retry_after.unwrap().as_secs(), 3);
    let gemini = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m","details":[{"retryDelay":"34.07s"}]}}"#;
    assert_eq!(classified(429, gemini).retry_after.unwrap().as_millis(), 34_070);
}
