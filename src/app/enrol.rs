//! Experiments on a request's way: what finished ones ask of it, which running one it takes part in, and what that
//! makes of the decision.

use crate::arm::ArmId;
use crate::experiments::{Enrolment, Ruling, Table, Unit, Variant};
use crate::policy::Decision;

/// Input tokens above which a prompt is in the slice `length=long`.
const LONG: u64 = 1_000;

/// Whether what finished experiments ruled leaves `arm` to be drawn, among `arms`.
#[must_use]
pub fn allowed(table: &Table, route: &str, category: Option<&str>, arm: &ArmId, arms: &[&ArmId]) -> bool {
    let is = |variant: &Variant, arm: &ArmId| matches!(variant, Variant::Model(model) if model == arm);
    !table.rulings(route, category).any(|ruling| match ruling {
        Ruling::Exclude { variant } => is(variant, arm) && arms.len() > 1,
        // Only where the one that takes its place can take the request.
        Ruling::Replace { of, by } => is(of, arm) && arms.iter().any(|other| is(by, other)),
    })
}

/// The request's place in an experiment between models that all can take it.
#[must_use]
pub fn enrol(
    table: &Table,
    unit: &Unit<'_>,
    route: &str,
    category: Option<&str>,
    arms: &[&ArmId],
) -> Option<Enrolment> {
    let enrolment = table.assign(unit, route, category)?;
    let eligible = |variant: &Variant| matches!(variant, Variant::Model(model) if arms.contains(&model));
    // An arm that cannot take some requests would get the easier ones only.
    enrolment.variants.iter().all(eligible).then_some(enrolment)
}

/// Makes the decision the experiment's: its arm, with its probability.
pub fn settle(
    decision: &mut Decision,
    enrolment: &mut Enrolment,
    arms: &[&ArmId],
    input_tokens: u64,
    category: Option<&str>,
) {
    let position = |variant: &Variant| match variant {
        Variant::Model(model) => arms.iter().position(|arm| *arm == model),
        _ => None,
    };
    let Some(chosen) = position(&enrolment.variant) else {
        return;
    };
    decision.pmf = vec![0.0; arms.len()];
    for (variant, share) in enrolment.variants.iter().zip(&enrolment.shares) {
        if let Some(index) = position(variant) {
            decision.pmf[index] += share;
        }
    }
    decision.chosen = chosen;
    decision.propensity = decision.pmf[chosen];
    decision.explored = false;
    let control = enrolment.variants.first().and_then(position);
    enrolment.covariate = control
        .and_then(|control| decision.scores.get(control))
        .map_or(0.0, |score| score.mean);
    let length = if input_tokens > LONG { "long" } else { "short" };
    enrolment.slices = vec![format!("length={length}")];
    if let Some(category) = category {
        enrolment.slices.push(format!("category={category}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiments::{Definition, Experiments, Hypothesis, Intervention, Origin};
    use crate::policy::{ArmScore, Strategy};
    use crate::units::UnixMs;

    fn experiments() -> Experiments {
        let model = |id: &str| Variant::Model(ArmId::new(id));
        let variants = vec![
            ("control".to_owned(), model("a/1")),
            ("treatment".to_owned(), model("b/2")),
        ];
        let hypothesis = Hypothesis::NonInferior { margin: 0.05 };
        let mut experiments = Experiments::default();
        let definition = Definition::new("ab", "auto", variants, hypothesis, Origin::Config, UnixMs(1));
        experiments.start(definition, UnixMs(1)).unwrap();
        experiments
    }

    #[test]
    fn the_decision_becomes_the_experiments() {
        let arms = [ArmId::new("c/3"), ArmId::new("b/2"), ArmId::new("a/1")];
        let arms: Vec<&ArmId> = arms.iter().collect();
        let table = experiments().table();
        let unit = Unit {
            request: "r",
            ..Unit::default()
        };
        let mut enrolment = enrol(&table, &unit, "auto", Some("code"), &arms).unwrap();
        let mut decision = Decision {
            chosen: 0,
            propensity: 0.8,
            explored: true,
            pmf: vec![0.8, 0.1, 0.1],
            scores: [0.9, 0.6, 0.7]
                .map(|mean| ArmScore {
                    mean,
                    ..ArmScore::default()
                })
                .to_vec(),
            lambda: 0.0,
            strategy: Strategy::Contextual,
        };
        settle(&mut decision, &mut enrolment, &arms, 10, Some("code"));
        assert_eq!(decision.pmf, [0.0, 0.5, 0.5]);
        assert_eq!((decision.propensity, decision.explored), (0.5, false));
        assert_eq!(Variant::Model(arms[decision.chosen].clone()), enrolment.variant);
        assert!(
            (enrolment.covariate - 0.7).abs() < 1e-12,
            "the control's expected quality"
        );
        assert_eq!(enrolment.slices, ["length=short", "category=code"]);
    }

    #[test]
    fn a_request_that_one_arm_cannot_take_stays_out() {
        let (one, other) = (ArmId::new("a/1"), ArmId::new("c/3"));
        let unit = Unit {
            request: "r",
            ..Unit::default()
        };
        assert!(enrol(&experiments().table(), &unit, "auto", None, &[&one, &other]).is_none());
    }

    #[test]
    fn what_was_shipped_takes_the_controls_place_where_it_can() {
        let mut experiments = experiments();
        let ship = Intervention::Ship {
            arm: "treatment".into(),
        };
        experiments.intervene("ab", &ship, "", UnixMs(2)).unwrap();
        let table = experiments.table();
        let (control, treatment) = (ArmId::new("a/1"), ArmId::new("b/2"));
        assert!(!allowed(&table, "auto", None, &control, &[&control, &treatment]));
        assert!(allowed(&table, "auto", None, &treatment, &[&control, &treatment]));
        assert!(
            allowed(&table, "auto", None, &control, &[&control]),
            "the treatment cannot take it"
        );
        assert!(allowed(&table, "other", None, &control, &[&control, &treatment]));
    }
}
