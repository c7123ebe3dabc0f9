//! The books: every attempt, when it is over, is priced once and told to telemetry, the log and its request's
//! account. Called from destructors, so nothing here blocks.

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;
use serde_json::json;

use crate::app::live::Live;
use crate::app::pending::Pending;
use crate::app::sessions::Sessions;
use crate::clock;
use crate::completion::{FinishReason, Signals, Usage};
use crate::dispatch::{AttemptRecord, Cancellation, Outcome};
use crate::pricing::Units;
use crate::store::{AttemptRow, Store};
use crate::telemetry::{Counted, Counters, Ending, PromptCacheUse, Sample, SeriesKey, Telemetry};
use crate::units::Usd;

/// Where attempts are booked.
pub struct Books {
    /// Prices.
    pub live: Arc<ArcSwap<Live>>,
    /// Latency and errors.
    pub telemetry: Arc<Telemetry>,
    /// What `/metrics` counts.
    pub counters: Arc<Counters>,
    /// The log.
    pub store: Store,
    /// Requests under way.
    pub pending: Pending,
    /// Conversations under way.
    pub sessions: Sessions,
}

impl crate::dispatch::Books for Books {
    fn attempt(&self, record: AttemptRecord) {
        let ledger = self.pending.get(&record.decision_id);
        let units = ledger.as_ref().map_or_else(Units::default, |ledger| ledger.units);
        let live = ledger
            .as_ref()
            .map_or_else(|| self.live.load_full(), |ledger| Arc::clone(&ledger.live));
        let cost = price(&live, &record, &units);
        let prompt_cache = prompt_cache(&live, &record, &units);
        let sample = sample(&record);
        self.telemetry.record(clock::wall(), &sample);
        self.counters.attempt(&Counted {
            provider: &record.provider,
            arm: &record.arm.id,
            role: record.role as usize,
            ending: sample.ending,
            usage: record.usage,
            cost,
            prompt_cache,
            ttft: sample.ttft,
            total: record.total,
        });
        if let Some(ledger) = &ledger {
            ledger.book(cost, record.number);
            if record.committed {
                let usage = record.usage.unwrap_or_default();
                ledger.serve(usage);
                if let Some(place) = ledger.place() {
                    self.sessions
                        .answered(place, &record.arm.id, usage.input, clock::wall());
                }
            }
        }
        let row = row(record, cost);
        match &ledger {
            Some(ledger) => ledger.log(row, &self.store),
            None => {
                self.store.log_attempt(row);
            }
        }
    }
}

/// What the attempt cost: nothing when nothing was used, and `None` when the price is unknown. The prices are those
/// in force when the request was decided; among dated ones and windows the moment at which the attempt was sent
/// decides, however long its answer took.
fn price(live: &Live, record: &AttemptRecord, units: &Units) -> Option<Usd> {
    let Some(usage) = &record.usage else {
        return Some(Usd::ZERO);
    };
    let tariff = live.config.prices.at(&record.arm.id, record.started)?;
    Some(tariff.cost(usage, units))
}

/// What the provider's prompt cache made cheaper and dearer in it, where the price is known.
fn prompt_cache(live: &Live, record: &AttemptRecord, units: &Units) -> PromptCacheUse {
    let tariff = live.config.prices.at(&record.arm.id, record.started);
    let used = tariff.zip(record.usage);
    used.map_or_else(PromptCacheUse::default, |(tariff, usage)| {
        let (saved, paid) = tariff.prompt_cache(&usage, units);
        PromptCacheUse { saved, paid }
    })
}

fn sample(record: &AttemptRecord) -> Sample {
    let ending = match &record.outcome {
        Outcome::Succeeded => Ending::Succeeded,
        Outcome::Failed(error) => Ending::Failed(error.kind),
        Outcome::Cancelled(Cancellation::LostHedge) => Ending::LostHedge,
        Outcome::Cancelled(Cancellation::ClientGone) => Ending::ClientGone,
        Outcome::Cancelled(Cancellation::Deadline) => Ending::Deadline,
    };
    let (provider, arm) = (Arc::clone(&record.provider), record.arm.id.clone());
    Sample {
        key: SeriesKey::new(provider, arm, record.stream, record.input_tokens_estimate),
        ending,
        ttft: record.stream.then_some(record.ttft).flatten(),
        total: record.total,
        output_tokens: record.usage.map(|usage: Usage| usage.output),
    }
}

/// What the free quality signals are made of, for the log.
fn noticed(signals: &Signals) -> Option<String> {
    #[derive(Serialize)]
    struct Noticed {
        tool_calls: u32,
        invalid_tool_calls: u32,
        refused: bool,
        json_valid: Option<bool>,
    }
    serde_json::to_string(&Noticed {
        tool_calls: signals.tool_calls,
        invalid_tool_calls: signals.invalid_tool_calls,
        refused: signals.refused,
        json_valid: signals.json_valid,
    })
    .ok()
}

fn row(record: AttemptRecord, cost: Option<Usd>) -> AttemptRow {
    let detail = match &record.outcome {
        Outcome::Failed(error) => {
            Some(json!({"message": error.message, "provider_code": error.provider_code}).to_string())
        }
        _ => record.signals.as_ref().and_then(noticed),
    };
    AttemptRow {
        decision: record.decision_id,
        number: record.number,
        at: record.started,
        arm: record.arm.id.clone(),
        provider: record.provider,
        role: Cow::Borrowed(record.role.as_str()),
        outcome: Cow::Borrowed(match &record.outcome {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed(error) => error.kind.as_str(),
            Outcome::Cancelled(why) => why.as_str(),
        }),
        served: record.committed,
        stream: record.stream,
        ttft_ms: record.ttft.map(|ttft| ttft.as_secs_f64() * 1e3),
        total_ms: record.total.as_secs_f64() * 1e3,
        usage: record.usage,
        cost,
        finish: record.finish.map(|finish| {
            Cow::Borrowed(match finish {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
                FinishReason::ToolCalls => "tool_calls",
                FinishReason::ContentFilter => "content_filter",
            })
        }),
        upstream_id: record.upstream_id,
        text_bytes: record.text_bytes as u64,
        detail,
    }
}
