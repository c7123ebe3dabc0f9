//! Scripted upstreams in memory, for tests under paused time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use serde_json::value::RawValue;
use tokio::time::sleep;

use crate::arm::{Arm, ArmId, Modalities};
use crate::clock;
use crate::completion::{Chunk, Completion, FinishReason, Signals, StreamEvent, Usage, Written};
use crate::dispatch::{
    Answer, AttemptRecord, Books, Deployment, DispatchFailure, DispatchRules, Dispatcher, HedgeRule,
    LatencyOracle, Outcome, Plan, PlannedArm, Role, Served, Unlearned,
};
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};
use crate::providers::{Call, EventStream, Upstream};
use crate::request::ChatRequest;
use crate::units::Usd;

/// What an upstream does, step by step.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Wait(u64),
    /// Refuses the call, or breaks off a stream with an error event.
    Fail(AttemptError),
    Hang,
    /// An event without content.
    Empty,
    Text(&'static str),
    /// A piece of a tool call's arguments.
    Call(&'static str),
    Thought(&'static str),
    /// Ends properly; a whole answer's `Text`s are joined.
    End,
    /// The connection closes.
    Close,
}

/// Plays one script a call, in order; the last one again and again.
#[derive(Default)]
pub(crate) struct Scripted {
    scripts: Mutex<VecDeque<Vec<Step>>>,
    calls: AtomicUsize,
    stripped: Mutex<Vec<bool>>,
    under_way: Arc<UnderWay>,
}

/// Calls at the same time: now, and at most.
#[derive(Default)]
struct UnderWay {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Present(Arc<UnderWay>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) const USAGE: Usage = Usage {
    input: 7,
    cached_input: 0,
    cache_write_5m: 0,
    cache_write_1h: 0,
    audio_input: 0,
    output: 3,
    reasoning: 0,
    audio_output: 0,
    estimated: false,
};

impl Scripted {
    pub(crate) fn new(scripts: impl IntoIterator<Item = Vec<Step>>) -> Arc<Self> {
        Arc::new(Self {
            scripts: Mutex::new(scripts.into_iter().collect()),
            ..Self::default()
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Most calls that were under way at the same time; of streams, before they began.
    pub(super) fn most_at_once(&self) -> usize {
        self.under_way.most.load(Ordering::Relaxed)
    }

    /// For each call, whether what is another model's was to be left out.
    pub(super) fn stripped(&self) -> Vec<bool> {
        self.stripped.lock().unwrap().clone()
    }

    fn enter(&self) -> Present {
        let now = self.under_way.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.under_way.most.fetch_max(now, Ordering::Relaxed);
        Present(self.under_way.clone())
    }

    fn script(&self, call: &Call) -> VecDeque<Step> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.stripped.lock().unwrap().push(call.fallback);
        let mut scripts = self.scripts.lock().unwrap();
        let script = if scripts.len() > 1 {
            scripts.pop_front()
        } else {
            scripts.front().cloned()
        };
        script.expect("a script").into()
    }
}

async fn before_headers(script: &mut VecDeque<Step>) -> Result<(), AttemptError> {
    loop {
        match script.front() {
            Some(Step::Wait(ms)) => sleep(Duration::from_millis(*ms)).await,
            Some(Step::Hang) => std::future::pending().await,
            Some(Step::Fail(error)) => return Err(error.clone()),
            _ => return Ok(()),
        }
        script.pop_front();
    }
}

impl Upstream for Scripted {
    fn complete<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Completion, AttemptError>> {
        let mut script = self.script(call);
        let present = self.enter();
        Box::pin(async move {
            let _present = present;
            let mut text = String::new();
            loop {
                before_headers(&mut script).await?;
                match script.pop_front() {
                    Some(Step::Text(piece)) => text += piece,
                    Some(Step::End) => return Ok(whole(&text)),
                    Some(Step::Empty) => {}
                    _ => return Err(error(FailureKind::ProviderUnavailable)),
                }
            }
        })
    }

    fn stream<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<EventStream, AttemptError>> {
        let mut script = self.script(call);
        Box::pin(async move {
            before_headers(&mut script).await?;
            let events = stream::unfold(script, |mut script| async move {
                if let Err(error) = before_headers(&mut script).await {
                    return Some((Err(error), VecDeque::new()));
                }
                let event = match script.pop_front()? {
                    Step::Empty => StreamEvent::Chunk(chunk("")),
                    Step::Text(text) => StreamEvent::Chunk(chunk(text)),
                    Step::Call(arguments) => StreamEvent::Chunk(calling(arguments)),
                    Step::Thought(thought) => StreamEvent::Chunk(thinking(thought)),
                    Step::End => StreamEvent::End {
                        finish: FinishReason::Stop,
                        usage: Some(USAGE),
                        usage_extra: None,
                    },
                    _ => return None,
                };
                Some((Ok(event), script))
            });
            Ok(Box::pin(events) as EventStream)
        })
    }
}

fn chunk(text: &str) -> Chunk {
    piece(&serde_json::json!({"content": text}), text_only(text))
}

fn piece(delta: &serde_json::Value, written: Written) -> Chunk {
    let choices = serde_json::json!([{"index": 0, "delta": delta}]);
    Chunk {
        choices: RawValue::from_string(choices.to_string()).unwrap(),
        extra: Vec::new(),
        meaningful: written != Written::default(),
        written,
        usage: None,
    }
}

fn calling(arguments: &str) -> Chunk {
    let delta = serde_json::json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]});
    let other = arguments.len();
    piece(
        &delta,
        Written {
            other,
            ..Written::default()
        },
    )
}

fn thinking(thought: &str) -> Chunk {
    let thoughts = thought.len();
    piece(
        &serde_json::json!({"reasoning_content": thought}),
        Written {
            thoughts,
            ..Written::default()
        },
    )
}

fn text_only(text: &str) -> Written {
    Written {
        text: text.len(),
        ..Written::default()
    }
}

fn whole(text: &str) -> Completion {
    let choices = serde_json::json!([{"index": 0, "message": {"role": "assistant", "content": text}}]);
    Completion {
        upstream_id: Some("up-1".to_owned()),
        choices: RawValue::from_string(choices.to_string()).unwrap(),
        extra: Vec::new(),
        usage: Some(USAGE),
        usage_extra: None,
        finish: FinishReason::Stop,
        signals: Signals {
            written: text_only(text),
            ..Signals::default()
        },
    }
}

/// An upstream's failure that may be tried again on the same arm.
pub(crate) fn error(kind: FailureKind) -> AttemptError {
    AttemptError {
        kind,
        fault: FaultSource::Upstream,
        retry: Retry::SameArm,
        retry_after: None,
        quota_exhausted: false,
        may_be_billed: false,
        message: kind.to_string(),
        provider_code: None,
    }
}

/// Keeps every record.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Vec<AttemptRecord>>);

impl Books for Ledger {
    fn attempt(&self, record: AttemptRecord) {
        self.0.lock().unwrap().push(record);
    }
}

impl Ledger {
    /// The records so far, in the order of sending.
    pub(super) fn records(&self) -> Vec<AttemptRecord> {
        let mut records = self.0.lock().unwrap().clone();
        records.sort_by_key(|record| record.number);
        records
    }
}

pub(super) struct Stage {
    pub(super) dispatcher: Dispatcher,
    pub(super) ledger: Arc<Ledger>,
}

pub(super) fn stage() -> Stage {
    stage_with(Arc::new(Unlearned))
}

pub(super) fn stage_with(latency: Arc<dyn LatencyOracle>) -> Stage {
    let ledger = Arc::new(Ledger::default());
    Stage {
        dispatcher: Dispatcher::new(DispatchRules::default(), ledger.clone(), latency),
        ledger,
    }
}

/// A candidate named `p0/m`, `p1/m`, ... for each upstream; a minute's deadline, a cent each.
pub(super) fn plan(stream: bool, upstreams: &[&Arc<Scripted>]) -> Plan {
    let candidates = upstreams
        .iter()
        .enumerate()
        .map(|(index, upstream)| PlannedArm {
            arm: arm(&format!("p{index}/m")),
            deployments: vec![Arc::new(Deployment::new(
                &format!("p{index}"),
                (*upstream).clone(),
            ))],
            expected_cost: Usd::from_nanos(10_000_000),
        })
        .collect();
    Plan {
        decision_id: Arc::from("d-1"),
        request: Arc::new(request(stream)),
        candidates,
        fixed: 1,
        deadline: clock::monotonic() + Duration::from_secs(60),
        stream_deadline: clock::monotonic() + Duration::from_secs(60),
        ttft_budget: None,
        hedge: HedgeRule::default(),
        max_cost: None,
        max_attempts: None,
        input_tokens: 11,
        history: None,
    }
}

pub(super) fn arm(id: &str) -> Arc<Arm> {
    Arc::new(Arm {
        id: ArmId::new(id),
        upstream: Arc::from("m"),
        family: Arc::from("m"),
        context_window: 8192,
        max_output_tokens: 1024,
        modalities: Modalities::TEXT,
        tools: true,
        structured_output: true,
    })
}

pub(super) fn request(stream: bool) -> ChatRequest {
    let body = serde_json::json!({
        "model": "auto",
        "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
    });
    crate::request::parse(body.to_string().into()).unwrap()
}

/// Answers well after a tenth of a second.
pub(crate) fn good() -> Arc<Scripted> {
    Scripted::new([vec![Step::Wait(100), Step::Text("good"), Step::End]])
}

/// Refuses every call.
pub(super) fn sick(kind: FailureKind, retry: Retry) -> Arc<Scripted> {
    Scripted::new([vec![Step::Fail(AttemptError { retry, ..error(kind) })]])
}

/// The text of an answer; the error that a stream ended with.
pub(super) async fn read(answer: Answer) -> (Served, String, Option<AttemptError>) {
    match answer {
        Answer::Whole(served, completion) => (served, text_of(completion.choices.get(), "message"), None),
        Answer::Stream(served, mut events) => {
            let (mut text, mut failure, mut ended) = (String::new(), None, false);
            while let Some(item) = events.next().await {
                assert!(!ended && failure.is_none(), "nothing follows the end");
                match item {
                    Ok(StreamEvent::Chunk(chunk)) => text += &text_of(chunk.choices.get(), "delta"),
                    Ok(StreamEvent::End { .. }) => ended = true,
                    Err(error) => failure = Some(error),
                }
            }
            assert!(
                ended || failure.is_some(),
                "a stream ends with its end or an error"
            );
            (served, text, failure)
        }
    }
}

fn text_of(choices: &str, field: &str) -> String {
    let choices: serde_json::Value = serde_json::from_str(choices).unwrap();
    choices[0][field]["content"].as_str().unwrap().to_owned()
}

pub(super) async fn answered(stage: &Stage, plan: Plan) -> (Served, String) {
    let (served, text, failure) = read(stage.dispatcher.run(plan).await.unwrap()).await;
    assert_eq!(failure, None);
    (served, text)
}

pub(super) async fn refused(stage: &Stage, plan: Plan) -> DispatchFailure {
    stage.dispatcher.run(plan).await.err().expect("a failure")
}

pub(super) fn roles(stage: &Stage) -> Vec<(Role, Outcome)> {
    stage
        .ledger
        .records()
        .into_iter()
        .map(|record| (record.role, record.outcome))
        .collect()
}
