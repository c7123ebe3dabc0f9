//! Experiments on a request's way: what finished ones ask of it, which running one it takes part in, and what that
//! makes of the decision.

use rand::RngCore;

use crate::app::variants::Choosing;
use crate::arm::Arm;
use crate::experiments::{Enrolment, Ruling, Table, Unit, Variant};
use crate::policy::{Decision, Demands, Proposal};

/// Input tokens above which a prompt is in the slice `length=long`.
const LONG: u64 = 1_000;

/// The experiments that concern a request: the finished and the running ones of its route and category.
#[derive(Clone, Copy)]
pub struct Trials<'a> {
    /// All of them.
    pub table: &'a Table,
    /// The request's route.
    pub route: &'a str,
    /// Its category.
    pub category: Option<&'a str>,
}

impl<'a> Trials<'a> {
    fn rulings(&self) -> impl Iterator<Item = &'a Ruling> {
        self.table.rulings(self.route, self.category)
    }

    /// How the request is to be routed where it is in no experiment, if a finished one has shipped another way than
    /// the router's own.
    #[must_use]
    pub fn way(&self) -> Option<&'a Variant> {
        self.table.way(self.route, self.category)
    }

    /// Whether what finished experiments ruled leaves `arm` to be drawn, among `arms`.
    fn allow(&self, arm: &Arm, arms: &[&Arm]) -> bool {
        !self.rulings().any(|ruling| match ruling {
            Ruling::Exclude { variant } => {
                variant.names(arm) && arms.iter().any(|other| !variant.names(other))
            }
            // Only where the one that takes its place can take the request.
            Ruling::Replace { of, by } => {
                of.names(arm) && !by.names(arm) && arms.iter().any(|other| by.names(other))
            }
            Ruling::Adopt { .. } => false,
        })
    }

    /// Whether an arm that is not drawn, by what finished experiments ruled, may still stand in when others fail:
    /// another took its place, but nothing was found against it.
    #[must_use]
    pub fn stands_in(&self, arm: &Arm) -> bool {
        let excluded = |ruling: &Ruling| matches!(ruling, Ruling::Exclude { variant } if variant.names(arm));
        !self.rulings().any(excluded)
    }

    /// The request's place in an experiment, if each of its arms can take it. A request that wants nothing explored
    /// takes part in nothing, and one that asks for a quality of its own in no comparison of margins.
    #[must_use]
    pub fn enrol(&self, unit: &Unit<'_>, arms: &[&Arm], demands: &Demands) -> Option<Enrolment> {
        if !demands.explore {
            return None;
        }
        let enrolment = self.table.assign(unit, self.route, self.category)?;
        let own = demands.quality_margin.is_some() || demands.quality_floor.is_some();
        let can = |variant: &Variant| match variant {
            Variant::Model(_) | Variant::Family(_) => arms.iter().any(|arm| variant.names(arm)),
            Variant::MarginMilli(_) => !own,
            Variant::Categories(table) => self
                .category
                .and_then(|category| table.get(category))
                .is_none_or(|model| arms.iter().any(|arm| arm.id == *model)),
            Variant::Policy(_) | Variant::Features(_) | Variant::Current => true,
        };
        // An arm that cannot take some requests would get the easier ones only.
        enrolment.variants.iter().all(can).then_some(enrolment)
    }

    /// Those of `guests` (places in the pool, whose arms `arm` gives) that may be drawn beside the route's own models:
    /// what the running experiment compares, and what a finished one put in a model's place.
    #[must_use]
    pub fn invited<'p>(
        &self,
        guests: &[usize],
        arm: impl Fn(usize) -> &'p Arm,
        enrolment: Option<&Enrolment>,
    ) -> Vec<usize> {
        let compared = |arm: &Arm| {
            let names = |variant: &Variant| matches!(variant, Variant::Model(model) if *model == arm.id);
            enrolment.is_some_and(|enrolment| enrolment.variants.iter().any(names))
        };
        let shipped = |arm: &Arm| {
            self.rulings()
                .any(|ruling| matches!(ruling, Ruling::Replace { by, .. } if by.names(arm)))
        };
        let is_in = |&index: &usize| compared(arm(index)) || shipped(arm(index));
        guests.iter().copied().filter(is_in).collect()
    }

    /// Those of `drawn` (places in the pool, whose arms `arm` gives) that may be drawn: what finished experiments left,
    /// and what the running one names.
    #[must_use]
    pub fn left<'p>(
        &self,
        drawn: &[usize],
        arm: impl Fn(usize) -> &'p Arm,
        enrolment: Option<&Enrolment>,
    ) -> Vec<usize> {
        let arms: Vec<&Arm> = drawn.iter().map(|&index| arm(index)).collect();
        let named = |arm: &Arm| {
            enrolment.is_some_and(|enrolment| enrolment.variants.iter().any(|variant| variant.names(arm)))
        };
        let kept: Vec<usize> = drawn
            .iter()
            .zip(&arms)
            .filter(|(_, arm)| named(arm) || self.allow(arm, &arms))
            .map(|(&index, _)| index)
            .collect();
        if kept.is_empty() { drawn.to_vec() } else { kept }
    }
}

/// What a request is like, for the slices of a report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traits<'a> {
    /// Its input tokens.
    pub input_tokens: u64,
    /// The prompt's category.
    pub category: Option<&'a str>,
    /// Its language, by the two-letter code.
    pub language: Option<&'a str>,
    /// The client's key, by its name, where keys are set.
    pub tenant: Option<&'a str>,
}

impl Traits<'_> {
    fn slices(&self) -> Vec<String> {
        let length = if self.input_tokens > LONG { "long" } else { "short" };
        let named = [
            ("category", self.category),
            ("language", self.language),
            ("tenant", self.tenant),
        ];
        let named = named
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", (*value)?)));
        std::iter::once(format!("length={length}")).chain(named).collect()
    }
}

/// The experiment's decision: its arm's own way of choosing draws, and the propensity of each model is the sum over
/// the arms of the probability of the arm times that of the model in it. `None` if an arm cannot choose now.
pub fn settle(
    enrolment: &mut Enrolment,
    asked: &Choosing<'_>,
    traits: &Traits<'_>,
    rng: &mut dyn RngCore,
) -> Option<Decision> {
    let base = asked.propose();
    let proposals: Vec<Proposal> = enrolment
        .variants
        .iter()
        .map(|variant| asked.by(variant, &base))
        .collect::<Option<_>>()?;
    let by_arm: Vec<Vec<f64>> = proposals
        .iter()
        .map(|proposal| proposal.pmf.probabilities())
        .collect();
    let mut pmf = vec![0.0; base.pmf.len()];
    for (own, share) in by_arm.iter().zip(&enrolment.shares) {
        pmf.iter_mut()
            .zip(own)
            .for_each(|(sum, probability)| *sum += share * probability);
    }
    let draw = proposals.get(enrolment.arm)?.pmf.draw(rng);
    let expected = by_arm.iter().map(|own| {
        let scores = own.iter().zip(&base.scores);
        scores.map(|(probability, score)| probability * score.mean).sum()
    });
    enrolment.covariate = covariate(&enrolment.shares, &expected.collect::<Vec<f64>>());
    enrolment.slices = traits.slices();
    Some(Decision {
        chosen: draw.index,
        propensity: pmf[draw.index],
        explored: draw.explored,
        pmf,
        scores: base.scores,
        lambda: base.lambda,
        strategy: base.strategy,
    })
}

/// What the prompt was worth before the draw, for CUPED: the quality expected of each arm, weighted by the share of
/// the others. That is the covariate which leaves the difference of two arms the least variance: an arm with few
/// samples gains most from knowing what its prompts were like (Robins, Rotnitzky and Zhao, *Estimation of regression
/// coefficients when some regressors are not always observed*, JASA 1994). The draw has no influence on it.
#[must_use]
pub fn covariate(shares: &[f64], expected: &[f64]) -> f64 {
    let others = shares.iter().map(|share| 1.0 - share);
    let weight: f64 = others.clone().sum();
    if weight <= 0.0 {
        return 0.0;
    }
    let sum: f64 = others
        .zip(expected)
        .map(|(others, quality)| others * quality)
        .sum();
    sum / weight
}

#[cfg(test)]
#[path = "enrol_tests.rs"]
mod tests;
