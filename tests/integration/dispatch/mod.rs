//! The dispatcher over real sockets, against upstreams that break in every way.

pub mod chaos;
pub mod faults;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use pointsman::arm::{Arm, ArmId, Modalities};
use pointsman::clock;
use pointsman::completion::StreamEvent;
use pointsman::dispatch::{
    Answer, AttemptRecord, Books, Deployment, DispatchRules, Dispatcher, HedgeRule, Plan, PlannedArm, Served,
    Unlearned,
};
use pointsman::failure::AttemptError;
use pointsman::providers::{Provider, ProviderSettings, WireFormat, http_client};
use pointsman::units::Usd;

use crate::upstream::{INPUT_TOKENS, Upstream, Wire};

/// Keeps every record.
#[derive(Default)]
pub struct Ledger(Mutex<Vec<AttemptRecord>>);

impl Books for Ledger {
    fn attempt(&self, record: AttemptRecord) {
        self.0.lock().unwrap().push(record);
    }
}

impl Ledger {
    /// The records of one decision, in the order of sending.
    pub fn of(&self, decision: &str) -> Vec<AttemptRecord> {
        let mut records = self.all();
        records.retain(|record| &*record.decision_id == decision);
        records.sort_by_key(|record| record.number);
        records
    }

    pub fn all(&self) -> Vec<AttemptRecord> {
        self.0.lock().unwrap().clone()
    }
}

/// A dispatcher with its ledger.
pub struct Stage {
    pub dispatcher: Dispatcher,
    pub ledger: Arc<Ledger>,
}

impl Stage {
    pub fn new(rules: DispatchRules) -> Self {
        let ledger = Arc::new(Ledger::default());
        Self {
            dispatcher: Dispatcher::new(rules, ledger.clone(), Arc::new(Unlearned)),
            ledger,
        }
    }
}

/// An arm `name/m` at `upstream`; answers above 1 MiB are too large.
pub fn planned(name: &str, upstream: &Upstream, http: &reqwest::Client) -> PlannedArm {
    let kind = match upstream.wire() {
        Wire::OpenAi => WireFormat::OpenAi,
        Wire::Anthropic => WireFormat::Anthropic,
        Wire::Gemini => WireFormat::Gemini,
    };
    let settings = ProviderSettings {
        max_response_bytes: 1 << 20,
        ..ProviderSettings::new(name, kind, upstream.base_url())
    };
    let provider = Provider::new(settings, http.clone()).unwrap();
    let arm = Arm {
        id: ArmId::new(&format!("{name}/m")),
        upstream: Arc::from("m"),
        family: Arc::from("m"),
        context_window: 8192,
        max_output_tokens: 1024,
        modalities: Modalities::TEXT,
        tools: true,
        structured_output: true,
    };
    PlannedArm {
        arm: Arc::new(arm),
        deployments: vec![Arc::new(Deployment::new(name, Arc::new(provider)))],
        expected_cost: Usd::from_nanos(1_000_000),
    }
}

/// A request whose prompt holds the word `ask`; the decision is named by it too.
pub fn plan(ask: &str, stream: bool, candidates: Vec<PlannedArm>, deadline: Duration) -> Plan {
    let body = serde_json::json!({
        "model": "auto", "stream": stream, "messages": [{"role": "user", "content": format!("please {ask}")}],
    });
    Plan {
        decision_id: Arc::from(ask),
        request: Arc::new(pointsman::request::parse(body.to_string().into()).unwrap()),
        candidates,
        fixed: 1,
        deadline: clock::monotonic() + deadline,
        stream_deadline: clock::monotonic() + deadline,
        ttft_budget: None,
        hedge: HedgeRule {
            enabled: false,
            ..HedgeRule::default()
        },
        max_cost: None,
        max_attempts: None,
        input_tokens: INPUT_TOKENS as u32,
        history: None,
    }
}

/// What the client saw of an answer: its text, and the error a stream ended with.
pub async fn read(answer: Answer) -> (Served, String, Option<AttemptError>) {
    match answer {
        Answer::Whole(served, completion) => (served, text_of(completion.choices.get(), "message"), None),
        Answer::Stream(served, mut events) => {
            let (mut text, mut failure, mut ended) = (String::new(), None, false);
            while let Some(item) = events.next().await {
                assert!(!ended && failure.is_none(), "something follows the end");
                match item {
                    Ok(StreamEvent::Chunk(chunk)) => text += &text_of(chunk.choices.get(), "delta"),
                    Ok(StreamEvent::End { .. }) => ended = true,
                    Err(error) => failure = Some(error),
                }
            }
            assert!(ended || failure.is_some(), "the stream has no end");
            (served, text, failure)
        }
    }
}

fn text_of(choices: &str, field: &str) -> String {
    let choices: serde_json::Value = serde_json::from_str(choices).unwrap();
    choices[0][field]["content"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

pub fn http() -> reqwest::Client {
    http_client(Duration::from_secs(1)).unwrap()
}
