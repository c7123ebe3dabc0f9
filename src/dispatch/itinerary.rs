//! Where to go next: the candidates in their order, healthy ones first, and never none while one is left untried.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dispatch::balance::{Standing, UNSEEN, affinity, choose, loads};
use crate::dispatch::dispatcher::Shared;
use crate::dispatch::health::{Lane, Slot};
use crate::dispatch::latency::LatencyQuestion;
use crate::dispatch::plan::Plan;
use crate::telemetry::circuit::Admission;

/// A candidate is slow at the moment when its first token is expected later than this many times the fastest one's.
const SLOW_FACTOR: u32 = 4;
/// ... but what begins within this is never slow.
const SLOW_FLOOR: Duration = Duration::from_secs(1);

/// A deployment of a candidate that an attempt may be sent to.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) candidate: usize,
    pub(super) deployment: usize,
    pub(super) lane: Arc<Lane>,
    /// It is the one probe of a half-open circuit.
    pub(super) probe: bool,
}

/// What there is to do next.
pub(super) enum Next {
    Go(Target, Slot),
    /// Nothing else is left, and the provider asks to be left alone until then.
    Wait(Instant, Target),
    /// Nothing else is left, and all of these have as many calls in flight as they may.
    Crowded(Vec<Busy>),
    Nothing,
}

/// A lane with as many calls in flight as it may have.
pub(super) struct Busy {
    pub(super) lane: Arc<Lane>,
    pub(super) limit: u32,
}

pub(super) struct Itinerary {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    /// Deployments that were tried, or that need not be, for each candidate.
    done: Vec<Vec<bool>>,
}

impl Itinerary {
    pub(super) fn new(shared: Arc<Shared>, plan: Arc<Plan>) -> Self {
        let done = plan
            .candidates
            .iter()
            .map(|candidate| vec![false; candidate.deployments.len()])
            .collect();
        Self { shared, plan, done }
    }

    /// Deployments not yet tried.
    pub(super) fn left(&self) -> usize {
        self.done.iter().flatten().filter(|done| !**done).count()
    }

    /// The candidate's other deployments would fail alike.
    pub(super) fn skip(&mut self, candidate: usize) {
        self.done[candidate].fill(true);
    }

    /// The target was not tried after all.
    pub(super) fn put_back(&mut self, target: &Target) {
        self.done[target.candidate][target.deployment] = false;
    }

    /// A place for another call at the target.
    pub(super) fn slot(&self, target: &Target) -> Option<Slot> {
        let deployment = &self.plan.candidates[target.candidate].deployments[target.deployment];
        target.lane.enter(deployment.max_in_flight)
    }

    /// The first candidate whose circuit admits a call; `hedge`: none that must be probed first.
    pub(super) fn healthy(
        &mut self,
        now: Instant,
        hedge: bool,
        affordable: impl Fn(usize) -> bool,
    ) -> Option<(Target, Slot)> {
        let fixed = self.plan.fixed.min(self.done.len());
        let asked_for = (0..fixed).find_map(|candidate| self.admitted(now, candidate, hedge, &affordable));
        let found = asked_for.or_else(|| {
            let rest = self.by_speed(now, fixed);
            rest.into_iter()
                .find_map(|candidate| self.admitted(now, candidate, hedge, &affordable))
        });
        found.inspect(|(target, _)| self.done[target.candidate][target.deployment] = true)
    }

    /// The next target of any kind. A circuit never takes away the last candidate: when all that is left rests, it
    /// is tried all the same, in order, unless its provider itself asks to be left alone.
    pub(super) fn next(&mut self, now: Instant, affordable: impl Fn(usize) -> bool) -> Next {
        if let Some((target, slot)) = self.healthy(now, false, &affordable) {
            return Next::Go(target, slot);
        }
        let mut soonest: Option<(Instant, Target)> = None;
        let mut crowded = Vec::new();
        for target in self.untried(affordable) {
            match target.lane.asked_to_wait(now, &self.shared.draws) {
                None => match self.slot(&target) {
                    Some(slot) => {
                        self.done[target.candidate][target.deployment] = true;
                        return Next::Go(target, slot);
                    }
                    None => crowded.push(self.busy(target)),
                },
                Some(until) if soonest.as_ref().is_none_or(|(first, _)| until < *first) => {
                    soonest = Some((until, target));
                }
                Some(_) => {}
            }
        }
        match soonest {
            _ if !crowded.is_empty() => Next::Crowded(crowded),
            Some((until, target)) => {
                self.done[target.candidate][target.deployment] = true;
                Next::Wait(until, target)
            }
            None => Next::Nothing,
        }
    }

    fn busy(&self, target: Target) -> Busy {
        let deployment = &self.plan.candidates[target.candidate].deployments[target.deployment];
        Busy {
            lane: target.lane,
            limit: deployment.max_in_flight.unwrap_or(u32::MAX),
        }
    }

    fn untried(&self, affordable: impl Fn(usize) -> bool) -> Vec<Target> {
        let mut targets = Vec::new();
        for (candidate, done) in self.done.iter().enumerate() {
            for (deployment, done) in done.iter().enumerate() {
                if !done && affordable(candidate) {
                    targets.push(self.target(candidate, deployment));
                }
            }
        }
        targets
    }

    /// The candidates from `fixed` on in their order, those that are slow at the moment behind the others. The
    /// policy has weighed what an arm usually takes; what counts after a failure, or for a hedge, is the present.
    fn by_speed(&self, now: Instant, fixed: usize) -> Vec<usize> {
        let rest: Vec<usize> = (fixed..self.done.len())
            .filter(|candidate| self.done[*candidate].contains(&false))
            .collect();
        if rest.len() < 2 {
            return rest;
        }
        let waits: Vec<Duration> = rest
            .iter()
            .map(|candidate| self.expected_wait(now, *candidate))
            .collect();
        let fastest = waits.iter().min().copied().unwrap_or_default();
        let limit = (fastest * SLOW_FACTOR).max(SLOW_FLOOR);
        let in_tier = |tier: bool| {
            let of_tier = rest
                .iter()
                .zip(&waits)
                .filter(move |(_, wait)| (**wait > limit) == tier);
            of_tier.map(|(candidate, _)| *candidate)
        };
        in_tier(false).chain(in_tier(true)).collect()
    }

    /// The first token of the candidate's fastest deployment: what it took lately or what it usually takes, if that
    /// is longer.
    fn expected_wait(&self, now: Instant, candidate: usize) -> Duration {
        let planned = &self.plan.candidates[candidate];
        let waits = (0..planned.deployments.len()).filter_map(|deployment| {
            let question = LatencyQuestion {
                provider: &planned.deployments[deployment].provider,
                arm: &planned.arm.id,
                stream: self.plan.request.stream,
                input_tokens: self.plan.input_tokens,
            };
            let lately = self
                .target(candidate, deployment)
                .lane
                .recent_ttft(now, question.stream);
            lately.max(self.shared.latency.quantile(&question, 0.5))
        });
        waits.min().unwrap_or(UNSEEN)
    }

    fn target(&self, candidate: usize, deployment: usize) -> Target {
        let planned = &self.plan.candidates[candidate];
        let lane = self
            .shared
            .health
            .lane(&planned.deployments[deployment], &planned.arm.id);
        Target {
            candidate,
            deployment,
            lane,
            probe: false,
        }
    }

    /// The candidate's best admitted deployment with a place free, by cache affinity and load.
    fn admitted(
        &self,
        now: Instant,
        candidate: usize,
        hedge: bool,
        affordable: &impl Fn(usize) -> bool,
    ) -> Option<(Target, Slot)> {
        if !affordable(candidate) {
            return None;
        }
        let deployments = &self.plan.candidates[candidate].deployments;
        let mut open: Vec<Target> = (0..deployments.len())
            .filter(|deployment| !self.done[candidate][*deployment])
            .map(|deployment| self.target(candidate, deployment))
            .collect();
        while !open.is_empty() {
            let mut target = open.swap_remove(self.pick(now, &open, candidate)?);
            let Some(slot) = self.slot(&target) else {
                continue;
            };
            match target.lane.admit(now, &self.shared.draws) {
                Admission::Pass => return Some((target, slot)),
                Admission::Probe if hedge => target.lane.release_probe(),
                Admission::Probe => {
                    target.probe = true;
                    return Some((target, slot));
                }
                Admission::Refused | Admission::AskedToWait(_) => {}
            }
        }
        None
    }

    fn pick(&self, now: Instant, open: &[Target], candidate: usize) -> Option<usize> {
        if let [_] = open {
            return Some(0);
        }
        let deployments = &self.plan.candidates[candidate].deployments;
        let standings: Vec<Standing> = open
            .iter()
            .map(|target| target.lane.standing(now, self.plan.request.stream))
            .collect();
        let names = open.iter().map(|target| &*deployments[target.deployment].name);
        let options: Vec<(&str, f64)> = names.zip(loads(&standings)).collect();
        let draws = [self.shared.draws.next(), self.shared.draws.next()];
        choose(&options, affinity(&self.plan.request), draws)
    }
}
