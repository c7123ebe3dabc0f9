//! Where to go next: the candidates in their order, healthy ones first, and never none while one is left untried.

use std::sync::Arc;
use std::time::Instant;

use crate::dispatch::balance::{affinity, choose};
use crate::dispatch::dispatcher::Shared;
use crate::dispatch::health::Lane;
use crate::dispatch::plan::Plan;
use crate::telemetry::circuit::Admission;

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
    Go(Target),
    /// Nothing else is left, and the provider asks to be left alone until then.
    Wait(Instant, Target),
    Nothing,
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

    /// The first candidate whose circuit admits a call; `hedge`: none that must be probed first.
    pub(super) fn healthy(
        &mut self,
        now: Instant,
        hedge: bool,
        affordable: impl Fn(usize) -> bool,
    ) -> Option<Target> {
        (0..self.done.len())
            .filter(|candidate| affordable(*candidate))
            .find_map(|candidate| self.admitted(now, candidate, hedge))
            .inspect(|target| self.done[target.candidate][target.deployment] = true)
    }

    /// The next target of any kind. A circuit never takes away the last candidate: when all that is left rests, it
    /// is tried all the same, in order, unless its provider itself asks to be left alone.
    pub(super) fn next(&mut self, now: Instant, affordable: impl Fn(usize) -> bool) -> Next {
        if let Some(target) = self.healthy(now, false, &affordable) {
            return Next::Go(target);
        }
        let mut soonest: Option<(Instant, Target)> = None;
        for target in self.untried(affordable) {
            match target.lane.asked_to_wait(now, &self.shared.draws) {
                None => {
                    self.done[target.candidate][target.deployment] = true;
                    return Next::Go(target);
                }
                Some(until) if soonest.as_ref().is_none_or(|(first, _)| until < *first) => {
                    soonest = Some((until, target));
                }
                Some(_) => {}
            }
        }
        match soonest {
            Some((until, target)) => {
                self.done[target.candidate][target.deployment] = true;
                Next::Wait(until, target)
            }
            None => Next::Nothing,
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

    /// The candidate's best admitted deployment: those with room first, then by cache affinity and load.
    fn admitted(&self, now: Instant, candidate: usize, hedge: bool) -> Option<Target> {
        let deployments = &self.plan.candidates[candidate].deployments;
        let mut open: Vec<Target> = (0..deployments.len())
            .filter(|deployment| !self.done[candidate][*deployment])
            .map(|deployment| self.target(candidate, deployment))
            .collect();
        while !open.is_empty() {
            let has_room = |target: &Target| {
                deployments[target.deployment]
                    .max_in_flight
                    .is_none_or(|limit| target.lane.in_flight() < limit)
            };
            let roomy: Vec<usize> = (0..open.len()).filter(|index| has_room(&open[*index])).collect();
            let pick = self.pick(&open, &roomy, candidate)?;
            let mut target = open.swap_remove(pick);
            match target.lane.admit(now, &self.shared.draws) {
                Admission::Pass => return Some(target),
                Admission::Probe if hedge => target.lane.release_probe(),
                Admission::Probe => {
                    target.probe = true;
                    return Some(target);
                }
                Admission::Refused | Admission::AskedToWait(_) => {}
            }
        }
        None
    }

    /// `None` when every deployment is at its limit: another candidate is better then.
    fn pick(&self, open: &[Target], roomy: &[usize], candidate: usize) -> Option<usize> {
        if let [only] = roomy {
            return Some(*only);
        }
        let deployments = &self.plan.candidates[candidate].deployments;
        let options: Vec<(&str, f64)> = roomy
            .iter()
            .map(|&index| {
                let target = &open[index];
                let load = target.lane.load(self.plan.request.stream);
                (&*deployments[target.deployment].name, load)
            })
            .collect();
        let draws = [self.shared.draws.next(), self.shared.draws.next()];
        choose(&options, affinity(&self.plan.request), draws).map(|option| roomy[option])
    }
}
