//! The contextual policy: per-arm Bayesian linear quality, less the price of this request's dollars.

mod score;

use std::collections::HashMap;
use std::sync::Arc;

use super::arm_model::{ArmModel, Common};
use super::pmf::{argmax, floor_per_dollar, probability_of_best};
use super::prompt_cache::{CachedInput, CachedShares};
use super::route::{Objective, RouteSettings, Solution};
use super::word_weights::WordWeights;
use super::{ArmScore, Candidate, Contexts, Pmf, Policy, Proposal, Round, Strategy};
use crate::arm::ArmId;
use score::{Scored, repriced};

/// Quality points that the cost of one exploring request may be worth where no budget limits it.
const EXPLORED_QUALITY: f64 = 0.1;
/// Share of a budget that the audit may spend at most.
const AUDIT_SPEND: f64 = 0.02;
/// How many times its expected cost a call of an arm may well come to of which nothing is known.
const UNKNOWN_SURPRISE: f64 = 2.0;

/// One route as readers see it.
#[derive(Clone, Debug)]
pub struct RouteView {
    /// The route's settings.
    pub settings: Arc<RouteSettings>,
    /// What was solved on its recent rounds.
    pub solution: Arc<Solution>,
    /// The most that a request may come to for its budget to have room for it, where it has one.
    pub room_usd: Option<f64>,
    /// How much is explored now.
    pub exploration: Exploration,
    /// The best mix that looks at no prompt.
    pub static_mix: Vec<(ArmId, f64)>,
    /// Whether the contextual scores serve; else the static mix does.
    pub contextual: bool,
    /// The arm that the audit slice goes to.
    pub audited: Option<ArmId>,
    /// Variance of each arm's mean quality over recent prompts.
    pub levels: Arc<HashMap<ArmId, f64>>,
}

/// Bounds of the exploration floor: each is shared equally by the arms, and the tightest holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Exploration {
    /// Share of requests.
    pub share: f64,
    /// Share of spend.
    pub spend: f64,
    /// Quality points per request.
    pub regret: f64,
}

/// An immutable state of the learner: decides without a lock.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) arms: HashMap<ArmId, Arc<ArmModel>>,
    pub(super) routes: HashMap<String, Arc<RouteView>>,
    pub(super) common: Common,
    /// What words mean to the length of every arm's answers.
    pub(super) words: Arc<WordWeights>,
    pub(super) clock: u64,
}

impl Snapshot {
    /// Price of a dollar for a round, in quality points, where its route has one yet.
    fn lambda(view: &RouteView, round: &Round<'_>) -> Option<f64> {
        let solved = view.solution.lambda?;
        let asked = match (round.demands.quality_margin, view.settings.objective) {
            (Some(margin), Objective::CheapestCapable { .. }) => {
                let own = view.solution.lambda_for_margin(margin);
                // A request may ask for less quality than its route, or more, but not for more money.
                if view.settings.budget_usd.is_some() {
                    own.max(solved)
                } else {
                    own
                }
            }
            _ => solved,
        };
        Some(asked)
    }

    /// The price of a dollar for a round whose own budgets may want more than the route asks for, with the higher one
    /// that decides a share of such rounds. Two prices and not one between them: where prompts are alike, what they
    /// cost jumps from one price to the next, and only a mixture meets the target.
    fn paced(view: &RouteView, round: &Round<'_>, asked: f64) -> (f64, f64, f64) {
        let Some(target) = round.demands.target_usd else {
            return (asked, asked, 0.0);
        };
        let (low, high, share) = view.solution.prices_for_cost(target);
        (asked.max(low), asked.max(high), share)
    }

    /// The contextual choice: a race of noisy values among the allowed, or the likeliest to be capable if none is.
    fn race(round: &Round<'_>, scores: &[ArmScore], sds: &[f64], allowed: &[bool]) -> Pmf {
        let arms = scores.len();
        if !allowed.contains(&true) {
            let means: Vec<f64> = scores.iter().map(|score| score.mean).collect();
            return Pmf::certain(argmax(&means).unwrap_or(0), arms);
        }
        let values: Vec<f64> = scores
            .iter()
            .zip(allowed)
            .map(|(score, &allowed)| if allowed { score.value } else { f64::NEG_INFINITY })
            .collect();
        if !round.demands.explore {
            return Pmf::certain(argmax(&values).unwrap_or(0), arms);
        }
        Pmf::from_weights(probability_of_best(&values, sds))
    }

    /// Before the first solution there is no price of a dollar: the request alone must do. The best arm within the
    /// budget, or the cheapest within the margin.
    fn first_choice(settings: &RouteSettings, round: &Round<'_>, scores: &[ArmScore]) -> Pmf {
        let best = scores
            .iter()
            .map(|score| score.mean)
            .fold(f64::NEG_INFINITY, f64::max);
        let margin = match settings.objective {
            Objective::CheapestCapable { margin } => Some(round.demands.quality_margin.unwrap_or(margin)),
            _ => None,
        };
        let budget = least(settings.budget_usd, round.demands.target_usd);
        let rank = |score: &ArmScore| {
            let over = budget.is_some_and(|budget| score.cost_usd > budget);
            match margin {
                _ if over || !score.capable => -1e6 - score.cost_usd,
                Some(margin) if score.mean >= best - margin => 1e6 - score.cost_usd,
                _ => score.value,
            }
        };
        let ranks: Vec<f64> = scores.iter().map(rank).collect();
        Pmf::certain(argmax(&ranks).unwrap_or(0), scores.len())
    }

    /// The static mix, where it has an arm that is offered and costs no more than the request's budgets want.
    fn static_choice(view: &RouteView, round: &Round<'_>) -> Option<Pmf> {
        let weights: Vec<f64> = round
            .candidates
            .iter()
            .map(|candidate| {
                let share = view.static_mix.iter().find(|(arm, _)| arm == candidate.arm);
                share.map_or(0.0, |(_, share)| *share)
            })
            .collect();
        let whole: f64 = weights.iter().sum();
        let costs = round.candidates.iter().map(|candidate| candidate.cost_usd);
        let cost: f64 = weights.iter().zip(costs).map(|(share, cost)| share * cost).sum();
        let affordable = round
            .demands
            .target_usd
            .is_none_or(|target| cost <= target * whole);
        (whole > 0.0 && affordable).then(|| Pmf::from_weights(weights))
    }

    /// Which candidates may be drawn: those that meet the floor, and of these, if there are any, those that the budget
    /// has room for, so that no window of requests overspends whatever is drawn. A call that costs no more than the
    /// budget of its own request has room always: else the answers of a dear model that came out long are paid for by
    /// the requests after them, which would lose a cheap model that is far better than the cheapest.
    fn allowed(&self, view: Option<&RouteView>, round: &Round<'_>, scores: &[ArmScore]) -> Vec<bool> {
        let capable = |score: &ArmScore| score.capable;
        let fits: Vec<bool> = match view.and_then(|view| Some((view.settings.budget_usd?, view.room_usd?))) {
            None => scores.iter().map(capable).collect(),
            Some((budget, room)) => {
                let fits = |(score, candidate): (&ArmScore, &Candidate<'_>)| {
                    let surprise = self
                        .arms
                        .get(candidate.arm)
                        .map_or(UNKNOWN_SURPRISE, |model| model.surprise());
                    let own = score.cost_usd <= budget;
                    capable(score) && (own || score.cost_usd * surprise <= room)
                };
                scores.iter().zip(round.candidates).map(fits).collect()
            }
        };
        if fits.contains(&true) {
            return fits;
        }
        // Nothing fits: the cheapest of the capable must do.
        let least = scores
            .iter()
            .filter(|score| capable(score))
            .map(|score| score.cost_usd);
        let least = least.fold(f64::INFINITY, f64::min);
        scores
            .iter()
            .map(|score| capable(score) && score.cost_usd <= least)
            .collect()
    }

    /// Exploration per dollar: within the budget, or where there is none, at no more than a tenth of a quality point
    /// per exploring request at the present price of a dollar.
    fn floor(
        view: &RouteView,
        round: &Round<'_>,
        lambda: f64,
        (scores, levels): (&[ArmScore], &[f64]),
    ) -> Vec<f64> {
        let settings = &view.settings;
        let limit = least(settings.budget_usd, round.demands.target_usd);
        // Where the cheapest is believed best, the price of a dollar says nothing: what requests cost now is spent then.
        let least_usd = view.solution.mean_cost_usd;
        let budget = limit.or_else(|| (lambda > 0.0).then(|| (EXPLORED_QUALITY / lambda).max(least_usd)));
        let costs = round.candidates.iter().map(|candidate| candidate.cost_usd);
        let explored = view.exploration;
        let mut floor = floor_per_dollar(costs, explored.share, explored.spend, budget);
        bound_regret(&mut floor, scores, levels, explored.regret);
        let reference = view.audited.as_ref();
        if let Some(index) = round.candidates.iter().position(|arm| Some(arm.arm) == reference) {
            // Under a budget the audit of a dear reference must not eat what it is to judge.
            let cost = round.candidates[index].cost_usd;
            let affordable = limit.map_or(f64::INFINITY, |limit| AUDIT_SPEND * limit / cost.max(1e-12));
            floor[index] += settings.audit_share.min(affordable);
        }
        floor
    }
}

/// The lesser of two limits, of which either may be missing.
fn least(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Bounds each arm's share of exploring draws so that it gives up no more than its part of `regret` in expectation,
/// however much better the best candidate is. The arm counts as good as its level may have become (two standard
/// deviations up): who has not been watched for long, or is new, is tried as often as any.
fn bound_regret(floor: &mut [f64], scores: &[ArmScore], levels: &[f64], regret: f64) {
    let best = scores
        .iter()
        .map(|score| score.value)
        .fold(f64::NEG_INFINITY, f64::max);
    let part = regret / scores.len().max(1) as f64;
    for ((share, score), level) in floor.iter_mut().zip(scores).zip(levels) {
        let gap = best - score.value - 2.0 * level.sqrt();
        if gap > 0.0 {
            *share = share.min(part / gap);
        }
    }
}

impl Policy for Snapshot {
    fn name(&self) -> &'static str {
        "contextual"
    }

    fn propose(&self, round: &Round<'_>) -> Proposal {
        let Some(view) = self.routes.get(round.route) else {
            // A route that the learner was never told of: best expected quality, nothing learned about its money.
            let settings = RouteSettings::default();
            let Scored { scores, sds, .. } = self.score(round, &settings, 0.0);
            let allowed = self.allowed(None, round, &scores);
            return Proposal {
                pmf: Self::race(round, &scores, &sds, &allowed),
                scores,
                lambda: 0.0,
                strategy: Strategy::Contextual,
            };
        };
        let settings = &view.settings;
        let asked = Self::lambda(view, round);
        let (lambda, higher, share) = Self::paced(view, round, asked.unwrap_or(0.0));
        let Scored { scores, sds, levels } = self.score(round, settings, lambda);
        let allowed = self.allowed(Some(view), round, &scores);
        let floored = round.demands.quality_floor.or(settings.quality_floor).is_some();
        let from_mix = if view.contextual || floored || asked.is_none() {
            None
        } else {
            Self::static_choice(view, round)
        };
        let strategy = if from_mix.is_some() {
            Strategy::StaticMix
        } else {
            Strategy::Contextual
        };
        let mut pmf = match (from_mix, asked) {
            (Some(mix), _) => mix,
            (None, Some(_)) => {
                let race = Self::race(round, &scores, &sds, &allowed);
                if share > 0.0 && higher > lambda {
                    let thrifty = repriced(&scores, higher - lambda);
                    race.mixed(&Self::race(round, &thrifty, &sds, &allowed), share)
                } else {
                    race
                }
            }
            (None, None) => Self::first_choice(settings, round, &scores),
        };
        if round.demands.explore {
            let mut floor = Self::floor(view, round, lambda, (&scores, &levels));
            for (share, &allowed) in floor.iter_mut().zip(&allowed) {
                if !allowed {
                    *share = 0.0;
                }
            }
            pmf = pmf.with_floor(floor);
        }
        Proposal {
            pmf,
            scores,
            lambda,
            strategy,
        }
    }

    fn blind(&self, round: &Round<'_>) -> Option<Proposal> {
        let view = self.routes.get(round.route)?;
        let lambda = Self::lambda(view, round)?;
        let pmf = Self::static_choice(view, round)?;
        let Scored { scores, .. } = self.score(round, &view.settings, lambda);
        Some(Proposal {
            pmf,
            scores,
            lambda,
            strategy: Strategy::StaticMix,
        })
    }

    fn output_tokens(&self, arm: &ArmId, contexts: &Contexts<'_>, category: Option<&str>) -> Option<f64> {
        self.arms.get(arm)?.output_tokens(contexts, category, &self.words)
    }

    fn output_spread(&self, arm: &ArmId) -> Option<f64> {
        self.arms.get(arm)?.output_spread()
    }

    fn cached_input(&self, arm: &ArmId, input: u64, prefix: u64) -> CachedInput {
        let model = self.arms.get(arm);
        model.map_or_else(CachedInput::default, |model| {
            model.prompt_cache().expect(input, prefix)
        })
    }

    fn cached_shares(&self, arm: &ArmId) -> Option<CachedShares> {
        Some(self.arms.get(arm)?.prompt_cache().shares())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(value: f64) -> ArmScore {
        ArmScore {
            mean: value,
            value,
            capable: true,
            ..ArmScore::default()
        }
    }

    /// With no room left, what costs no more than the budget may be drawn, what costs more not,
    /// and where everything costs more, the cheapest.
    #[test]
    fn a_window_that_is_spent_refuses_no_call_within_its_own_budget() {
        let snapshot = Snapshot {
            arms: HashMap::new(),
            routes: HashMap::new(),
            common: Common::default(),
            words: Arc::new(WordWeights::new(1.0)),
            clock: 0,
        };
        let allowed = |budget: f64, room: f64| {
            let settings = RouteSettings {
                budget_usd: Some(budget),
                ..RouteSettings::default()
            };
            let view = RouteView {
                settings: Arc::new(settings),
                solution: Arc::default(),
                room_usd: Some(room),
                exploration: Exploration::default(),
                static_mix: Vec::new(),
                contextual: true,
                audited: None,
                levels: Arc::default(),
            };
            let arms = ["a", "b", "c"].map(ArmId::new);
            let costs = [0.5, 1.0, 3.0];
            let candidates: Vec<Candidate<'_>> = arms
                .iter()
                .zip(costs)
                .map(|(arm, cost_usd)| Candidate {
                    arm,
                    cost_usd,
                    latency_ms: 0.0,
                })
                .collect();
            let round = Round {
                route: "auto",
                contexts: Contexts::default(),
                category: None,
                candidates: &candidates,
                demands: crate::policy::Demands::default(),
            };
            let scores = costs.map(|cost_usd| ArmScore {
                cost_usd,
                ..score(0.5)
            });
            snapshot.allowed(Some(&view), &round, &scores)
        };
        assert_eq!(allowed(1.0, 0.0), [true, true, false]);
        assert_eq!(allowed(0.1, 0.0), [true, false, false]);
        // Nothing is known of these arms: they are taken to come to twice what is expected.
        assert_eq!(allowed(0.1, 2.0), [true, true, false]);
        assert_eq!(allowed(0.1, 6.0), [true, true, true]);
    }

    #[test]
    fn exploring_gives_up_no_more_than_it_may() {
        // A regret of 0.004 over four arms is 0.001 each: 0.001 / 0.25 = 0.4 %, and 0.001 / 0.04 = 2.5 % does not
        // bind. The third is as far behind as the first, but its level may be 2 * 0.1 higher by now: a gap of 0.05.
        let scores = [score(0.65), score(0.86), score(0.65), score(0.9)];
        let mut floor = vec![0.01; 4];
        bound_regret(&mut floor, &scores, &[0.0, 0.0, 0.01, 0.0], 0.004);
        assert!((floor[0] - 0.004).abs() < 1e-12, "{floor:?}");
        assert_eq!(floor[1..], [0.01, 0.01, 0.01]);
        let given_up: f64 = floor
            .iter()
            .zip(&scores)
            .map(|(share, arm)| share * (0.9 - arm.value))
            .sum();
        assert!(given_up <= 0.004, "{given_up}");
    }
}
