//! Why this model: response headers, and `router_metadata` for those who ask.

use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::arm::ArmId;
use crate::dispatch::Served;
use crate::routing::Decided;
use crate::units::Usd;

/// The header that names the decision.
pub const DECISION_ID: &str = "x-router-decision-id";

/// Room for all headers of an answer, so that their table grows once.
pub const MOST_HEADERS: usize = 16;

/// An arm that could not take the request, and why.
pub type Refused = (ArmId, String);

/// The headers of an answer that has begun.
pub fn headers(headers: &mut HeaderMap, decided: &Decided, served: &Served, experiment: Option<&str>) {
    decision_headers(headers, decided, experiment);
    put(headers, "x-router-model", served.arm.id.as_str());
    put(headers, "x-router-provider", &served.provider);
    headers.insert("x-router-attempts", HeaderValue::from(served.attempts));
    headers.insert(
        "x-router-hedged",
        HeaderValue::from_static(if served.hedged { "true" } else { "false" }),
    );
    if let Some(from) = &served.fallback_from {
        put(headers, "x-router-fallback-from", from.as_str());
    }
}

/// What is known of an answer before it has begun.
pub fn decision_headers(headers: &mut HeaderMap, decided: &Decided, experiment: Option<&str>) {
    put(headers, DECISION_ID, &decided.id);
    put(headers, "x-router-strategy", &decided.strategy);
    put(
        headers,
        "x-router-propensity",
        &format!("{:.6}", decided.decision.propensity),
    );
    if let Some(category) = &decided.category {
        put(headers, "x-router-category", category);
    }
    if let Some(experiment) = experiment {
        put(headers, "x-router-experiment", experiment);
    }
}

/// Puts a header whose value we made; one that cannot be a header is left out.
pub fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// `router_metadata`: the candidates with their scores, the refused ones with their reasons, the attempts.
#[must_use]
pub fn metadata(decided: &Decided, refused: &[Refused], served: &Served, cost: Option<Usd>) -> Value {
    let mut metadata = decision(decided, refused);
    metadata["selected"] = served.arm.id.as_str().into();
    metadata["provider"] = (&*served.provider).into();
    metadata["hedged"] = served.hedged.into();
    metadata["attempts"] = serde_json::to_value(&served.tried).unwrap_or_default();
    metadata["cost_usd"] = cost.map_or(Value::Null, |cost| cost.dollars().into());
    metadata
}

/// A decision as JSON: what `/v1/route` answers and `router_metadata` begins with.
#[must_use]
pub fn decision(decided: &Decided, refused: &[Refused]) -> Value {
    let decision = &decided.decision;
    let candidates: Vec<Value> = decided
        .arms
        .iter()
        .enumerate()
        .map(|(index, arm)| {
            let (expected, score) = (&decided.expected[index], decision.scores.get(index));
            json!({
                "model": arm.as_str(),
                "chosen": index == decision.chosen,
                "propensity": decision.pmf.get(index),
                "expected_quality": score.map(|score| score.mean),
                "quality_sd": score.map(|score| score.sd),
                "value": score.map(|score| score.value),
                "capable": score.map(|score| score.capable),
                "expected_cost_usd": expected.priced.then(|| expected.cost.dollars()),
                "expected_input_tokens": expected.input_tokens,
                "expected_cached_tokens": expected.cached_tokens,
                "expected_output_tokens": expected.output_tokens,
                "expected_latency_ms": (decided.latency_ms[index] > 0.0).then_some(decided.latency_ms[index]),
            })
        })
        .collect();
    let excluded: Vec<Value> = refused
        .iter()
        .map(|(arm, reason)| json!({"model": arm.as_str(), "excluded": reason}))
        .collect();
    let session = decided.session.as_ref().map(|session| {
        let switches = decided.arms.iter().zip(&session.switches);
        let switches: Vec<Value> = switches
            .filter_map(|(arm, switch)| {
                let switch = (*switch)?;
                Some(json!({
                    "model": arm.as_str(),
                    "saving_usd": switch.saving.dollars(),
                    "lost_prefix_usd": switch.lost.dollars(),
                    "worth_it": switch.is_worth_it(),
                }))
            })
            .collect();
        json!({
            "incumbent": session.incumbent.as_str(),
            "held": session.held,
            "prefix_tokens": session.prefix_tokens,
            "switches": switches,
        })
    });
    json!({
        "decision_id": &*decided.id,
        "session": session,
        "route": &*decided.route,
        "strategy": &*decided.strategy,
        "selected": decided.arm().as_str(),
        "propensity": decision.propensity,
        "explored": decision.explored,
        "lambda_quality_per_usd": decision.lambda,
        "category": decided.category.as_deref(),
        "estimated_input_tokens": decided.input_tokens,
        "candidates": candidates,
        "excluded": excluded,
    })
}
