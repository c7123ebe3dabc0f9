//! One request, from its plan to its answer: sends attempts one after the other, at most two at a time, until one
//! begins to answer or the budget is spent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::sleep_until;

use crate::clock;
use crate::dispatch::answer::{Answer, DispatchFailure, Served};
use crate::dispatch::attempt::{Begun, Ended, attempt};
use crate::dispatch::dispatcher::{Shared, lock};
use crate::dispatch::failure::{crowded_out, nothing_left, out_of_time};
use crate::dispatch::health::Slot;
use crate::dispatch::hedge;
use crate::dispatch::in_flight::InFlightGuard;
use crate::dispatch::itinerary::{Busy, Itinerary, Next, Target};
use crate::dispatch::latency::LatencyQuestion;
use crate::dispatch::plan::{Plan, PlannedArm};
use crate::dispatch::record::{Cancellation, Role, Tried};
use crate::dispatch::retry;
use crate::dispatch::tail::Tail;
use crate::dispatch::ticket::{Cause, Sending, Ticket};
use crate::failure::{AttemptError, FailureKind, FaultSource, Retry};
use crate::providers::Call;
use crate::request::Role as Speaker;
use crate::units::Usd;

/// A first token later than this many times the arm's own 99th percentile is not coming.
const OVERDUE_FACTOR: u32 = 4;
/// ... but nothing is given up before this, however fast the arm usually is.
const OVERDUE_FLOOR: Duration = Duration::from_secs(5);
/// What a healthy arm is taken to need at most while its latency is not known.
const OVERDUE_UNKNOWN: Duration = Duration::from_secs(15);
/// Until then, a stream's first token may take this many times the budget that it should take.
const BUDGET_FACTOR: u32 = 8;
/// With another candidate at hand, a retry of the same arm is not worth a longer pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Race {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    itinerary: Itinerary,
    cause: Arc<Cause>,
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
    sent: Vec<Sent>,
    failures: Vec<(AttemptError, Arc<str>)>,
    /// What the attempts sent so far are expected to cost.
    spent: Usd,
    retried: bool,
    /// What other models thought is taken out of the conversation.
    stripped: bool,
    hedged: bool,
    hedge_at: Option<Instant>,
    /// An attempt that is to be sent later: a retry after its pause, or a call that a provider asked to wait with.
    scheduled: Option<(Instant, Target)>,
    /// Where a place must become free before anything can be sent.
    crowded: Vec<Busy>,
    in_flight: InFlightGuard,
}

/// An attempt that was sent.
struct Sent {
    target: Target,
    at: Instant,
    tried: Tried,
}

impl Race {
    pub(super) fn new(shared: Arc<Shared>, plan: Plan) -> Self {
        let plan = Arc::new(plan);
        Self {
            itinerary: Itinerary::new(shared.clone(), plan.clone()),
            in_flight: shared.in_flight.enter(),
            shared,
            plan,
            cause: Arc::default(),
            running: FuturesUnordered::new(),
            sent: Vec::new(),
            failures: Vec::new(),
            spent: Usd::ZERO,
            retried: false,
            stripped: false,
            hedged: false,
            hedge_at: None,
            scheduled: None,
            crowded: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<Answer, DispatchFailure> {
        let now = clock::monotonic();
        lock(&self.shared.retries).deposit(now);
        if self.may_hedge() {
            lock(&self.shared.hedges).deposit(self.plan.hedge.max_rate);
        }
        self.advance(now)?;
        loop {
            let alarm = self.alarm();
            tokio::select! {
                biased;
                Some(Ended { index, result }) = self.running.next() => match result {
                    Ok((ticket, begun)) => return Ok(self.won(index, ticket, begun)),
                    Err(error) => self.lost(index, error)?,
                },
                () = a_place(&self.crowded), if !self.crowded.is_empty() => self.on_place()?,
                () = sleep_until(alarm.into()) => self.on_alarm(clock::monotonic())?,
            }
        }
    }

    fn alarm(&self) -> Instant {
        let scheduled = self.scheduled.as_ref().map(|(at, _)| *at);
        [self.hedge_at, scheduled]
            .into_iter()
            .flatten()
            .fold(self.plan.deadline, Instant::min)
    }

    fn on_alarm(&mut self, now: Instant) -> Result<(), DispatchFailure> {
        if now >= self.plan.deadline {
            return Err(self.expired());
        }
        if let Some((_, target)) = self.scheduled.take_if(|(at, _)| *at <= now) {
            match self.itinerary.slot(&target) {
                Some(slot) => {
                    let role = self.role_of(&target);
                    self.send(now, target, slot, role);
                }
                None => {
                    self.itinerary.put_back(&target);
                    self.advance(now)?;
                }
            }
        }
        if self.hedge_at.take_if(|at| *at <= now).is_some() {
            self.send_hedge(now);
        }
        Ok(())
    }

    /// A place has become free somewhere.
    fn on_place(&mut self) -> Result<(), DispatchFailure> {
        let waited_for = std::mem::take(&mut self.crowded);
        let result = self.advance(clock::monotonic());
        // Whoever waits behind this one is told too: the place may not be the one that was taken.
        waited_for.iter().for_each(|busy| busy.lane.pass_on(busy.limit));
        result
    }

    /// Sends the next attempt, or schedules it.
    fn advance(&mut self, now: Instant) -> Result<(), DispatchFailure> {
        if self.sent.len() >= self.most_attempts() {
            return Err(self.given_up(now, None));
        }
        let (plan, spent) = (self.plan.clone(), self.spent);
        match self
            .itinerary
            .next(now, |candidate| affordable(&plan, spent, candidate))
        {
            Next::Go(target, slot) => {
                let role = self.role_of(&target);
                self.send(now, target, slot, role);
                Ok(())
            }
            Next::Wait(until, target) if self.is_worth_waiting(now, until) => {
                self.scheduled = Some((until, target));
                Ok(())
            }
            Next::Wait(until, _) => Err(self.given_up(now, Some(until))),
            Next::Crowded(lanes) => {
                self.crowded = lanes;
                Ok(())
            }
            Next::Nothing => Err(self.given_up(now, None)),
        }
    }

    fn is_worth_waiting(&self, now: Instant, until: Instant) -> bool {
        until < self.plan.deadline && until - now <= self.shared.rules.longest_wait
    }

    fn most_attempts(&self) -> usize {
        let deployments: usize = self
            .plan
            .candidates
            .iter()
            .map(|candidate| candidate.deployments.len())
            .sum();
        self.plan
            .max_attempts
            .map_or(deployments + 1, |most| most as usize)
    }

    fn role_of(&self, target: &Target) -> Role {
        let again = self
            .sent
            .iter()
            .any(|sent| sent.target.candidate == target.candidate);
        match (again, target.candidate) {
            (true, _) => Role::Retry,
            (false, 0) => Role::Primary,
            (false, _) => Role::Fallback,
        }
    }

    fn send(&mut self, now: Instant, target: Target, slot: Slot, role: Role) {
        let planned = &self.plan.candidates[target.candidate];
        let deployment = planned.deployments[target.deployment].clone();
        let (overdue, give_up) = self.patience(now, planned, &deployment.provider);
        let index = self.sent.len();
        self.spent += planned.expected_cost;
        // Without anywhere to send a hedge there is nothing to wait for.
        if self.may_hedge() && !self.hedged && self.itinerary.left() > 0 {
            let question = self.question(planned, &deployment.provider);
            let (rule, budget) = (self.plan.hedge, self.plan.ttft_budget);
            self.hedge_at =
                hedge::delay(rule, budget, self.shared.latency.as_ref(), &question).map(|delay| now + delay);
        }
        let call = Call {
            request: self.plan.request.clone(),
            arm: planned.arm.clone(),
            fallback: self.stripped
                || match &self.plan.history {
                    Some(before) => *before != planned.arm.id,
                    None => target.candidate != 0,
                },
        };
        let tried = Tried {
            model: planned.arm.id.clone(),
            provider: deployment.provider.clone(),
            role,
            error_type: None,
            cancelled: None,
            latency_ms: 0,
        };
        let sending = Sending {
            arm: planned.arm.clone(),
            deployment: deployment.clone(),
            lane: target.lane.clone(),
            slot: Some(slot),
            probe: target.probe,
            number: u32::try_from(index + 1).unwrap_or(u32::MAX),
            role,
            overdue,
        };
        let ticket = Ticket::new(
            self.shared.clone(),
            self.plan.clone(),
            self.cause.clone(),
            sending,
        );
        self.sent.push(Sent {
            target,
            at: now,
            tried,
        });
        let upstream = deployment.upstream.clone();
        self.running
            .push(attempt(index, ticket, upstream, call, give_up).boxed());
    }

    /// After how long a silent arm is sick, and when this attempt is given up: early enough that every deployment
    /// not yet tried still gets its turn, the later ones shorter ones, and as soon as the arm's own latency (or the
    /// client's budget for a stream's first token) says that nothing will come. The last one has all the time left.
    fn patience(&self, now: Instant, planned: &PlannedArm, provider: &str) -> (Duration, Option<Instant>) {
        let question = self.question(planned, provider);
        let learned = self.shared.latency.quantile(&question, 0.99);
        let overdue = learned.map_or(OVERDUE_UNKNOWN, |p99| (p99 * OVERDUE_FACTOR).max(OVERDUE_FLOOR));
        let left = u32::try_from(self.itinerary.left()).unwrap_or(u32::MAX);
        if left == 0 {
            return (overdue, None);
        }
        let remaining = self.plan.deadline.saturating_duration_since(now);
        let mut limit = remaining.mul_f64(2.0 / (f64::from(left) + 2.0));
        if learned.is_some() {
            limit = limit.min(overdue);
        } else if let Some(budget) = self.plan.ttft_budget.filter(|_| self.plan.request.stream) {
            // A budget says when to hedge, not that a slow model is a dead one.
            limit = limit.min((budget * BUDGET_FACTOR).max(OVERDUE_UNKNOWN));
        }
        (overdue, Some(now + limit))
    }

    fn question<'a>(&self, planned: &'a PlannedArm, provider: &'a str) -> LatencyQuestion<'a> {
        LatencyQuestion {
            provider,
            arm: &planned.arm.id,
            stream: self.plan.request.stream,
            input_tokens: self.plan.input_tokens,
        }
    }

    /// A tool loop may act on what the model says: it is only doubled when the client asks for it.
    fn may_hedge(&self) -> bool {
        let rule = self.plan.hedge;
        let request = &self.plan.request;
        let acts =
            !request.tools.is_empty() || request.messages.iter().any(|said| said.role == Speaker::Tool);
        rule.enabled && (rule.asked || !acts)
    }

    fn send_hedge(&mut self, now: Instant) {
        let crowded = self.running.len() != 1 || self.scheduled.is_some();
        if self.hedged || crowded || self.sent.len() >= self.most_attempts() {
            return;
        }
        if !lock(&self.shared.hedges).take() {
            return;
        }
        let (plan, spent) = (self.plan.clone(), self.spent);
        let target = self
            .itinerary
            .healthy(now, true, |candidate| affordable(&plan, spent, candidate));
        match target {
            Some((target, slot)) => {
                self.hedged = true;
                self.send(now, target, slot, Role::Hedge);
            }
            None => lock(&self.shared.hedges).deposit(1.0),
        }
    }

    /// An attempt failed before its answer began.
    fn lost(&mut self, index: usize, error: AttemptError) -> Result<(), DispatchFailure> {
        let now = clock::monotonic();
        let sent = &mut self.sent[index];
        sent.tried.error_type = Some(error.kind);
        sent.tried.latency_ms = millis(now.saturating_duration_since(sent.at));
        let (target, provider) = (sent.target.clone(), sent.tried.provider.clone());
        tracing::debug!(decision = %self.plan.decision_id, model = %sent.tried.model, role = sent.tried.role.as_str(), %error, "attempt failed");
        if !error.may_be_billed {
            self.spent -= self.plan.candidates[target.candidate].expected_cost;
        }
        if error.retry == Retry::WithoutThoughts && !std::mem::replace(&mut self.stripped, true) {
            self.itinerary.put_back(&target);
        } else if error.fault == FaultSource::Client {
            self.itinerary.skip(target.candidate);
        }
        self.failures.push((error.clone(), provider));
        if !self.running.is_empty() || self.scheduled.is_some() || !self.crowded.is_empty() {
            return Ok(());
        }
        self.hedge_at = None;
        if error.retry == Retry::No {
            return Err(self.given_up(now, None));
        }
        match self.retry_pause(now, &target, &error) {
            Some(pause) => {
                self.retried = true;
                self.scheduled = Some((
                    now + pause,
                    Target {
                        probe: false,
                        ..target
                    },
                ));
                Ok(())
            }
            None => self.advance(now),
        }
    }

    /// How long to wait before the one retry on the same deployment; `None`: go elsewhere. Another deployment of
    /// the arm is better than the same again, and needs no pause.
    fn retry_pause(&self, now: Instant, target: &Target, error: &AttemptError) -> Option<Duration> {
        let has_next = self.itinerary.left() > 0;
        let limited = error.kind == FailureKind::RateLimitExceeded;
        if error.retry != Retry::SameArm || error.quota_exhausted || self.retried || (has_next && limited) {
            return None;
        }
        let siblings = self.plan.candidates[target.candidate].deployments.len();
        if (has_next && (siblings > 1 || target.lane.is_resting(now) && error.retry_after.is_none()))
            || self.sent.len() >= self.most_attempts()
            || !affordable(&self.plan, self.spent, target.candidate)
        {
            return None;
        }
        let pause = error
            .retry_after
            .unwrap_or_else(|| retry::pause(self.shared.draws.next()));
        let longest = if has_next {
            LONGEST_PAUSE
        } else {
            self.shared.rules.longest_wait
        };
        let fits = pause <= longest && now + pause < self.plan.deadline;
        (fits && lock(&self.shared.retries).take(now)).then_some(pause)
    }

    fn won(mut self, index: usize, mut ticket: Ticket, begun: Begun) -> Answer {
        self.drop_running(Some(index), Cancellation::LostHedge);
        ticket.commit();
        let candidate = self.sent[index].target.candidate;
        self.sent[index].tried.latency_ms = millis(ticket.ttft());
        let served = Served {
            arm: ticket.arm().clone(),
            provider: ticket.provider().clone(),
            role: ticket.role(),
            attempts: u32::try_from(self.sent.len()).unwrap_or(u32::MAX),
            fallback_from: (candidate != 0).then(|| self.plan.candidates[0].arm.id.clone()),
            hedged: self.hedged,
            sent: self.sent.first().map_or(ticket.sent(), |sent| sent.at),
            ttft: ticket.ttft(),
            tried: self.sent.into_iter().map(|sent| sent.tried).collect(),
        };
        match begun {
            Begun::Whole(completion) => {
                ticket.complete(&completion);
                Answer::Whole(served, completion)
            }
            Begun::Stream(early, events) => {
                let idle = self.shared.rules.idle_timeout;
                let until = self.plan.stream_deadline;
                let tail = Tail::new(ticket, (early, events), until, idle, self.in_flight);
                Answer::Stream(served, Box::pin(tail))
            }
        }
    }

    /// Gives up whatever still runs, `but` for one.
    fn drop_running(&mut self, but: Option<usize>, why: Cancellation) {
        let now = clock::monotonic();
        self.cause.set(why);
        for (index, sent) in self.sent.iter_mut().enumerate() {
            if Some(index) != but && sent.tried.error_type.is_none() {
                sent.tried.cancelled = Some(why);
                sent.tried.latency_ms = millis(now.saturating_duration_since(sent.at));
            }
        }
        self.running.clear();
    }

    fn expired(&mut self) -> DispatchFailure {
        let waiting_for = self
            .sent
            .iter()
            .rfind(|sent| sent.tried.error_type.is_none())
            .map(|sent| sent.tried.provider.clone());
        self.drop_running(None, Cancellation::Deadline);
        // What the request left, not when the alarm went off.
        let allowed = self.sent.first().map_or(Duration::ZERO, |first| {
            self.plan.deadline.saturating_duration_since(first.at)
        });
        let failure = if self.crowded.is_empty() {
            out_of_time(waiting_for, allowed)
        } else {
            crowded_out()
        };
        self.with_attempts(failure)
    }

    fn given_up(&mut self, now: Instant, wait_until: Option<Instant>) -> DispatchFailure {
        let wait = wait_until.map(|until| until.saturating_duration_since(now));
        let failure = nothing_left(&self.failures, wait, &self.plan);
        self.with_attempts(failure)
    }

    fn with_attempts(&mut self, mut failure: DispatchFailure) -> DispatchFailure {
        failure.attempts = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        failure.tried = self.sent.drain(..).map(|sent| sent.tried).collect();
        failure
    }
}

/// Resolves when one of these lanes has a place to give.
async fn a_place(crowded: &[Busy]) {
    let mut waiting: FuturesUnordered<_> = crowded.iter().map(|busy| busy.lane.freed()).collect();
    waiting.next().await;
}

fn affordable(plan: &Plan, spent: Usd, candidate: usize) -> bool {
    plan.max_cost
        .is_none_or(|most| spent + plan.candidates[candidate].expected_cost <= most)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
