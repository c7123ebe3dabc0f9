//! Calls to providers: how many, how long they took, what they used and cost.

use std::sync::Arc;

use crate::app::App;
use crate::dispatch::Role;
use crate::server::metrics::exposition::Exposition;
use crate::telemetry::counters::{ArmCounts, Key, OUTCOMES, TOKEN_CLASSES, outcome_word};

/// The counts of each model at a provider.
type Arms = [(Key, Arc<ArmCounts>)];

/// The labels of each model, with its counts.
fn of_models(arms: &Arms) -> impl Iterator<Item = ([(&'static str, &str); 2], &ArmCounts)> {
    arms.iter().map(|((provider, model), counts)| {
        let labels = [("provider", &**provider), ("model", model.as_str())];
        (labels, &**counts)
    })
}

/// Calls by what became of them, with their tokens and cost.
pub(super) fn attempts(app: &App, text: &mut Exposition) {
    let arms = app.counters.arms();
    let mut family = text.counter(
        "pointsman_attempts_total",
        "Calls to providers that are over, by role and outcome.",
    );
    for (labels, counts) in of_models(&arms) {
        for role in [Role::Primary, Role::Retry, Role::Fallback, Role::Hedge] {
            for outcome in 0..OUTCOMES {
                let count = counts.attempts(role as usize, outcome);
                // What has never happened has no line: 76 for each model would be mostly zeros.
                if count > 0 {
                    let end = [("role", role.as_str()), ("outcome", outcome_word(outcome))];
                    family.sample(&[labels, end].concat(), count);
                }
            }
        }
    }
    let mut family = text.counter(
        "pointsman_tokens_total",
        "Tokens used, by class. The classes do not overlap.",
    );
    for ([provider, model], counts) in of_models(&arms) {
        for (class, tokens) in TOKEN_CLASSES.into_iter().zip(counts.tokens()) {
            family.sample(&[provider, model, ("class", class)], tokens);
        }
    }
    let mut family = text.counter(
        "pointsman_cost_nanodollars_total",
        "What the calls cost, in 1e-9 US dollars, lost hedges and hang-ups included.",
    );
    for (labels, counts) in of_models(&arms) {
        family.sample(&labels, counts.cost().nanos());
    }
    let mut family = text.counter(
        "pointsman_attempts_unpriced_total",
        "Calls whose cost is not in the sum, because the model's price is unknown.",
    );
    for (labels, counts) in of_models(&arms) {
        family.sample(&labels, counts.unpriced());
    }
    let mut family = text.counter(
        "pointsman_attempts_estimated_total",
        "Calls whose provider told no usage, so that tokens and cost are estimates.",
    );
    for (labels, counts) in of_models(&arms) {
        family.sample(&labels, counts.estimated());
    }
}

/// How long answers took.
pub(super) fn latencies(app: &App, text: &mut Exposition) {
    let arms = app.counters.arms();
    let mut family = text.histogram(
        "pointsman_ttft_seconds",
        "Time to the first token of streamed answers.",
    );
    for (labels, counts) in of_models(&arms) {
        family.buckets(&labels, &counts.ttft.read());
    }
    let mut family = text.histogram(
        "pointsman_answer_seconds",
        "Time to the end of answers that came.",
    );
    for (labels, counts) in of_models(&arms) {
        family.buckets(&labels, &counts.total.read());
    }
}

/// What providers' prompt caches saved and cost.
pub(super) fn prompt_caches(app: &App, text: &mut Exposition) {
    let arms = app.counters.arms();
    let mut family = text.counter(
        "pointsman_prompt_cache_saved_nanodollars_total",
        "What input read from providers' prompt caches cost less than plain input, in 1e-9 US dollars.",
    );
    for (labels, counts) in of_models(&arms) {
        family.sample(&labels, counts.prompt_cache().saved.nanos());
    }
    let mut family = text.counter(
        "pointsman_prompt_cache_paid_nanodollars_total",
        "What input written to providers' prompt caches cost more than plain input, in 1e-9 US dollars.",
    );
    for (labels, counts) in of_models(&arms) {
        family.sample(&labels, counts.prompt_cache().paid.nanos());
    }
}
