//! What an experiment wants to show: as the configuration states it, as the router does for its own, what it asks of costs,
//! and in words.

use super::definition::{DefinitionError, Variant, within};
use crate::config;
use crate::evaluation::ab::Hypothesis;

/// Least share of the cost that another way of routing must save if it is not better: less is no reason for it.
const SAVING: f64 = 0.02;

impl From<config::Hypothesis> for Hypothesis {
    fn from(stated: config::Hypothesis) -> Self {
        match stated {
            config::Hypothesis::Superior => Self::Superior,
            config::Hypothesis::NonInferior { margin } => Self::NonInferior { margin },
        }
    }
}

pub(super) fn no_worse(margin: f64) -> Hypothesis {
    Hypothesis::NonInferior {
        margin: margin.clamp(0.001, 1.0),
    }
}

/// What makes another way of routing worth having: unlike a cheaper model, it need not save anything.
pub(super) fn gain(margin: f64) -> Hypothesis {
    Hypothesis::Gain {
        margin: margin.clamp(0.001, 1.0),
        saving: SAVING,
    }
}

/// The most that a treatment may cost over the control to be shipped: what is "no worse" must at least not be dearer, or
/// there is no reason to ship it.
pub(super) fn cost_ratio(hypothesis: Hypothesis) -> Option<f64> {
    (hypothesis != Hypothesis::Superior).then_some(1.0)
}

/// Whether its figures lie in range.
pub(super) fn check(hypothesis: Hypothesis) -> Result<(), DefinitionError> {
    match hypothesis {
        Hypothesis::Superior => Ok(()),
        Hypothesis::NonInferior { margin } => within("margin", margin, 1.0, "(0, 1]"),
        Hypothesis::Gain { margin, saving } => {
            within("margin", margin, 1.0, "(0, 1]")?;
            within("saving", saving, 1.0, "(0, 1]")
        }
    }
}

/// Whether prices tell which one is cheaper: between models and families, and not between ways of routing.
fn by_price(variants: &[(String, Variant)]) -> bool {
    let mut variants = variants.iter().map(|(_, variant)| variant);
    variants.all(|variant| matches!(variant, Variant::Model(_) | Variant::Family(_)))
}

/// The hypothesis in words.
pub(super) fn statement(
    variants: &[(String, Variant)],
    hypothesis: Hypothesis,
    metric: &str,
    category: Option<&str>,
) -> String {
    let control = variants
        .first()
        .map_or_else(String::new, |(_, variant)| variant.to_string());
    let treatments: Vec<String> = variants
        .iter()
        .skip(1)
        .map(|(_, variant)| variant.to_string())
        .collect();
    let treatments = treatments.join(" or ");
    let claim = match hypothesis {
        Hypothesis::Superior => format!("{treatments} has a higher mean {metric} than {control}"),
        Hypothesis::NonInferior { margin } if by_price(variants) => {
            format!(
                "{treatments} is cheaper than {control}, and its mean {metric} is no more than {margin} below"
            )
        }
        Hypothesis::Gain { margin, saving } => format!(
            "the mean {metric} of {treatments} is higher than that of {control}, or no more than {margin} below at a cost that is lower by {} % or more",
            100.0 * saving
        ),
        Hypothesis::NonInferior { margin } => format!(
            "the mean {metric} of {treatments} is no more than {margin} below that of {control}, and it is not found to cost more"
        ),
    };
    category.map_or_else(
        || claim.clone(),
        |category| format!("for prompts of “{category}”, {claim}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::ArmId;

    fn pair(control: Variant, treatment: Variant) -> Vec<(String, Variant)> {
        vec![
            ("control".to_owned(), control),
            ("treatment".to_owned(), treatment),
        ]
    }

    fn models() -> Vec<(String, Variant)> {
        let model = |id| Variant::Model(ArmId::new(id));
        pair(model("a/large"), model("b/small"))
    }

    #[test]
    fn each_hypothesis_in_words() {
        let ways = pair(Variant::Current, Variant::Policy("linucb".to_owned()));
        let gained = Hypothesis::Gain {
            margin: 0.05,
            saving: 0.02,
        };
        for (variants, hypothesis, expected) in [
            (
                models(),
                Hypothesis::Superior,
                "b/small has a higher mean quality than a/large",
            ),
            (
                models(),
                no_worse(0.1),
                "b/small is cheaper than a/large, and its mean quality is no more than 0.1 below",
            ),
            (
                ways.clone(),
                no_worse(0.1),
                "the mean quality of policy linucb is no more than 0.1 below that of the router as it is, and it is not \
                 found to cost more",
            ),
            (
                ways,
                gained,
                "the mean quality of policy linucb is higher than that of the router as it is, or no more than 0.05 below \
                 at a cost that is lower by 2 % or more",
            ),
        ] {
            assert_eq!(statement(&variants, hypothesis, "quality", None), expected);
        }
        let mut three = models();
        three.push(("other".to_owned(), Variant::Family("tiny".to_owned())));
        assert_eq!(
            statement(&three, Hypothesis::Superior, "style", Some("code")),
            "for prompts of “code”, b/small or the tiny family has a higher mean style than a/large"
        );
    }

    #[test]
    fn a_margin_and_a_saving_lie_above_0_and_no_higher_than_1() {
        let of = |margin, saving| Hypothesis::Gain { margin, saving };
        let refused = |hypothesis| match check(hypothesis) {
            Err(DefinitionError::Range { field, .. }) => Some(field),
            _ => None,
        };
        for (hypothesis, field) in [
            (Hypothesis::Superior, None),
            (Hypothesis::NonInferior { margin: 1.0 }, None),
            (Hypothesis::NonInferior { margin: 0.0 }, Some("margin")),
            (of(0.05, 0.02), None),
            (of(f64::NAN, 0.02), Some("margin")),
            (of(0.05, 1.5), Some("saving")),
        ] {
            assert_eq!(refused(hypothesis), field, "{hypothesis:?}");
        }
        // What the router asks for by itself is in range whatever margin it was given.
        for margin in [-1.0, 0.0, 2.0] {
            assert_eq!((refused(no_worse(margin)), refused(gain(margin))), (None, None));
        }
    }
}
