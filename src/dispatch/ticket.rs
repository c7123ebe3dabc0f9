//! An attempt in flight. It ends exactly once, and its end is told to the books and to the lane's health: by one of
//! the methods that consume it, or, when the future or stream that owns it is dropped, as a cancellation. Dropping
//! is how a client that goes away reaches us at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::arm::Arm;
use crate::clock;
use crate::completion::{Completion, FinishReason, Signals, StreamEvent, Usage, Written};
use crate::dispatch::dispatcher::Shared;
use crate::dispatch::health::{Lane, Slot, Tripped};
use crate::dispatch::plan::{Deployment, Plan};
use crate::dispatch::record::{AttemptRecord, Cancellation, Outcome, Role};
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};
use crate::units::UnixMs;

/// Bytes per token of whatever a model writes, for an answer whose provider tells no tokens.
const BYTES_PER_TOKEN: usize = 4;

/// Why the attempts of one request are being dropped; shared by all of them.
#[derive(Debug, Default)]
pub(super) struct Cause(AtomicU8);

impl Cause {
    pub(super) fn set(&self, why: Cancellation) {
        let code = match why {
            Cancellation::ClientGone => 0,
            Cancellation::LostHedge => 1,
            Cancellation::Deadline => 2,
        };
        self.0.store(code, Ordering::Relaxed);
    }

    fn get(&self) -> Cancellation {
        match self.0.load(Ordering::Relaxed) {
            1 => Cancellation::LostHedge,
            2 => Cancellation::Deadline,
            _ => Cancellation::ClientGone,
        }
    }
}

/// What is known of an attempt when it is sent.
pub(super) struct Sending {
    pub(super) arm: Arc<Arm>,
    pub(super) deployment: Arc<Deployment>,
    pub(super) lane: Arc<Lane>,
    /// Its place among the calls in flight; given back as soon as it is over.
    pub(super) slot: Option<Slot>,
    /// It is the one probe of a half-open circuit.
    pub(super) probe: bool,
    pub(super) number: u32,
    pub(super) role: Role,
    /// A healthy answer has begun by then: silence beyond it counts against the lane even when it was us who gave up.
    pub(super) overdue: Duration,
}

pub(super) struct Ticket {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    sending: Sending,
    cause: Arc<Cause>,
    sent: Instant,
    sent_wall: UnixMs,
    seen: Seen,
    over: bool,
}

/// What has come of the answer so far.
#[derive(Default)]
struct Seen {
    committed: bool,
    ttft: Option<Duration>,
    last: Option<Instant>,
    longest_gap: Option<Duration>,
    written: Written,
    usage: Option<Usage>,
    /// Tokens told before the end.
    told: Option<Usage>,
    finish: Option<FinishReason>,
    upstream_id: Option<String>,
    signals: Option<Signals>,
}

impl Ticket {
    pub(super) fn new(shared: Arc<Shared>, plan: Arc<Plan>, cause: Arc<Cause>, sending: Sending) -> Self {
        let (sent, sent_wall) = (clock::monotonic(), clock::wall());
        Self {
            shared,
            plan,
            sending,
            cause,
            sent,
            sent_wall,
            seen: Seen::default(),
            over: false,
        }
    }

    pub(super) fn sent(&self) -> Instant {
        self.sent
    }

    pub(super) fn arm(&self) -> &Arc<Arm> {
        &self.sending.arm
    }

    pub(super) fn provider(&self) -> &Arc<str> {
        &self.sending.deployment.provider
    }

    pub(super) fn role(&self) -> Role {
        self.sending.role
    }

    pub(super) fn ttft(&self) -> Duration {
        self.seen.ttft.unwrap_or_default()
    }

    /// The first meaningful event, or the whole answer, is in: a sign of health, whatever follows.
    pub(super) fn begin(&mut self) {
        let now = clock::monotonic();
        let ttft = now.saturating_duration_since(self.sent);
        self.seen.ttft = Some(ttft);
        self.seen.last = Some(now);
        let lane = &self.sending.lane;
        if lane.succeeded(now, self.sent, ttft, self.plan.request.stream) {
            tracing::info!(provider = %self.provider(), model = %self.arm().id, "circuit recovers: a call succeeded");
        }
        self.release_probe();
    }

    /// This attempt's answer goes to the client.
    pub(super) fn commit(&mut self) {
        self.seen.committed = true;
    }

    /// An event of the stream came.
    pub(super) fn note(&mut self, event: &StreamEvent, now: Instant) {
        if let Some(last) = self.seen.last.replace(now) {
            let gap = now.saturating_duration_since(last);
            self.seen.longest_gap = self.seen.longest_gap.max(Some(gap));
        }
        self.keep(event);
    }

    /// An event from before the commitment.
    pub(super) fn keep(&mut self, event: &StreamEvent) {
        match event {
            StreamEvent::Chunk(chunk) => {
                self.seen.written += chunk.written;
                self.seen.told = chunk.usage.or(self.seen.told);
            }
            StreamEvent::End { finish, usage, .. } => {
                self.seen.finish = Some(*finish);
                self.seen.usage = *usage;
            }
        }
    }

    /// The whole answer is in and goes to the client.
    pub(super) fn complete(mut self, completion: &Completion) {
        self.seen.committed = true;
        self.seen.written = completion.signals.written;
        self.seen.usage = completion.usage;
        self.seen.finish = Some(completion.finish);
        self.seen.upstream_id.clone_from(&completion.upstream_id);
        self.seen.signals = Some(completion.signals.clone());
        self.end(Outcome::Succeeded);
    }

    /// The stream came to its proper end.
    pub(super) fn succeed(mut self) {
        self.end(Outcome::Succeeded);
    }

    /// The provider failed, before or after its first token.
    pub(super) fn fail(mut self, error: AttemptError) {
        let now = clock::monotonic();
        self.count_failure(now, &error);
        if error.kind == FailureKind::Timeout && self.seen.ttft.is_none() {
            self.give_up(now);
        }
        self.end(Outcome::Failed(error));
    }

    /// We give it up.
    pub(super) fn cancel(mut self, why: Cancellation) {
        self.cancelled(why);
    }

    fn cancelled(&mut self, why: Cancellation) {
        let now = clock::monotonic();
        if self.seen.ttft.is_none() {
            self.give_up(now);
            if now.saturating_duration_since(self.sent) >= self.sending.overdue {
                self.count_failure(now, &timed_out("no first token came"));
            }
        }
        self.end(Outcome::Cancelled(why));
    }

    fn give_up(&self, now: Instant) {
        let waited = now.saturating_duration_since(self.sent);
        self.sending.lane.given_up(now, waited, self.plan.request.stream);
    }

    fn count_failure(&self, now: Instant, error: &AttemptError) {
        let tripped = self
            .sending
            .lane
            .failed(now, self.sent, error, &self.shared.draws);
        match tripped {
            Some(Tripped::Lane(reason)) => {
                tracing::warn!(provider = %self.provider(), model = %self.arm().id, %reason, %error, "circuit opens");
            }
            Some(Tripped::Key(reason)) => {
                let deployment = &self.sending.deployment.name;
                tracing::warn!(%deployment, %reason, "circuit of the key opens: check the key and its account");
            }
            None => {}
        }
    }

    fn release_probe(&mut self) {
        if std::mem::take(&mut self.sending.probe) {
            self.sending.lane.release_probe();
        }
    }

    fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.release_probe();
        self.sending.slot = None;
        let usage = self.usage(&outcome);
        let (sending, seen) = (&self.sending, &mut self.seen);
        self.shared.books.attempt(AttemptRecord {
            decision_id: self.plan.decision_id.clone(),
            arm: sending.arm.clone(),
            provider: sending.deployment.provider.clone(),
            deployment: sending.deployment.name.clone(),
            started: self.sent_wall,
            number: sending.number,
            role: sending.role,
            outcome,
            committed: seen.committed,
            stream: self.plan.request.stream,
            ttft: seen.ttft,
            total: clock::monotonic().saturating_duration_since(self.sent),
            longest_gap: seen.longest_gap,
            usage,
            text_bytes: seen.written.text,
            finish: seen.finish,
            upstream_id: seen.upstream_id.take(),
            signals: seen.signals.take(),
            input_tokens_estimate: self.plan.input_tokens,
        });
    }

    /// What the provider told; else an estimate, unless it refused the call. A call that we
    /// gave up may have been worked on: it is taken to have read its prompt. Of an answer that was cut off, what had
    /// been told by then is exact, and only what was written is counted by us: text, calls and thoughts. Thoughts may
    /// be shown in part or in short, so that a provider's own count of them overrules ours.
    fn usage(&self, outcome: &Outcome) -> Option<Usage> {
        let refused = match outcome {
            Outcome::Failed(error) => self.seen.ttft.is_none() && !error.may_be_billed,
            Outcome::Succeeded | Outcome::Cancelled(_) => false,
        };
        let estimate = || {
            let tokens = |bytes: usize| bytes.div_ceil(BYTES_PER_TOKEN) as u64;
            let written = self.seen.written;
            let said = tokens(written.text + written.other);
            let told = self.seen.told.unwrap_or(Usage {
                input: u64::from(self.plan.input_tokens),
                ..Usage::default()
            });
            let reasoning = told.reasoning.max(tokens(written.thoughts));
            Usage {
                output: told.output.max(reasoning + said),
                reasoning,
                estimated: true,
                ..told
            }
        };
        self.seen.usage.or_else(|| (!refused).then(estimate))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.over {
            let why = if self.seen.committed {
                Cancellation::ClientGone
            } else {
                self.cause.get()
            };
            self.cancelled(why);
        }
    }
}

/// The provider was silent for too long.
pub(super) fn timed_out(message: &str) -> AttemptError {
    upstream_failure(FailureKind::Timeout, message)
}

/// The stream ended without its end.
pub(super) fn cut_off() -> AttemptError {
    upstream_failure(
        FailureKind::ProviderUnavailable,
        "the provider's stream broke off before its end",
    )
}

/// The stream goes on and on without saying anything.
pub(super) fn babble() -> AttemptError {
    upstream_failure(
        FailureKind::ProviderUnavailable,
        "the provider's stream holds nothing but empty events",
    )
}

fn upstream_failure(kind: FailureKind, message: &str) -> AttemptError {
    AttemptError {
        kind,
        fault: FaultSource::Upstream,
        retry: Retry::NextArm,
        retry_after: None,
        quota_exhausted: false,
        may_be_billed: true,
        message: message.to_owned(),
        provider_code: None,
    }
}
