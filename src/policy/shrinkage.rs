//! How firmly the models of a seed are held to what they share: chosen by cross-validation on the seed's own sums.

use std::collections::BTreeMap;

use super::View;
use super::gathered::{ByModel, Gathered, PARTS, around_common, common};
use super::linear::LinearPrior;
use super::seed::{CategorySeed, RIDGE, SeedBuilder, SeedSettings};

/// Precisions to choose from, loosest first.
const RIDGES: [f64; 6] = [32.0, 128.0, 512.0, 2048.0, 8192.0, 32_768.0];
/// The best models, whose differences are what a router decides by.
const BEST: usize = 3;
/// Prompts of each of them below which nothing is chosen.
const LEAST_PROMPTS: f64 = 100.0;

/// The precision with which the differences between the best models are predicted best on prompts that were left out.
///
/// Not the squared error of every model's prediction: that is ruled by how much worse the weak models become on hard
/// prompts, which is easy to learn and matters to no choice. With many models it chooses far too little shrinkage,
/// because a router picks the largest of many predictions, the one that erred most to its favour.
pub(super) fn choose(builder: &SeedBuilder, view: View, settings: &SeedSettings) -> f64 {
    let mut errors = [0.0; RIDGES.len()];
    for left_out in 0..PARTS {
        let seen = builder.gather(|part| part != left_out);
        let unseen = builder.gather(|part| part == left_out);
        let Some(found) = errors_of(view, &seen, &unseen, settings) else {
            return RIDGE;
        };
        errors
            .iter_mut()
            .zip(found)
            .for_each(|(sum, error)| *sum += error);
    }
    let mut best = RIDGES.len() - 1;
    for (index, error) in errors.iter().enumerate().rev() {
        // Of equals the firmest.
        if *error < errors[best] {
            best = index;
        }
    }
    RIDGES[best]
}

/// Squared error of the predicted differences on `unseen` for each of [`RIDGES`], up to a constant. `None` where the
/// best models did not answer the same prompts, or too few.
fn errors_of(
    view: View,
    seen: &ByModel<'_>,
    unseen: &ByModel<'_>,
    settings: &SeedSettings,
) -> Option<[f64; RIDGES.len()]> {
    let mut ranked: Vec<(&str, &Gathered)> = seen.iter().map(|(model, own)| (*model, own)).collect();
    let mean = |own: &Gathered| own.reward / own.prompts.max(1e-9);
    ranked.sort_by(|a, b| mean(b.1).total_cmp(&mean(a.1)));
    ranked.truncate(BEST);
    let answered: Vec<&Gathered> = ranked
        .iter()
        .map(|(model, _)| unseen.get(model))
        .collect::<Option<_>>()?;
    let enough = |own: &Gathered| own.prompts >= LEAST_PROMPTS;
    let comparable = answered.iter().all(|own| same_prompts(own, answered[0], view));
    if ranked.len() < 2 || !comparable || !ranked.iter().all(|(_, own)| enough(own)) {
        return None;
    }
    let shared = common(view, seen, settings)?;
    let mut errors = [0.0; RIDGES.len()];
    for (error, ridge) in errors.iter_mut().zip(RIDGES) {
        let fits: Vec<(Vec<f64>, Offsets)> = ranked
            .iter()
            .map(|(_, own)| {
                let (prior, offsets) = around_common(view, own, &shared, ridge, settings)?;
                let offsets = offsets.into_iter().map(named).collect();
                Some((prior.mean()?, offsets))
            })
            .collect::<Option<_>>()?;
        let (weights, offsets) = average(&fits);
        for ((own_weights, own_offsets), own) in fits.iter().zip(&answered) {
            let difference: Vec<f64> = own_weights.iter().zip(&weights).map(|(a, b)| a - b).collect();
            let beyond = |name: &str| {
                own_offsets.get(name).copied().unwrap_or(0.0) - offsets.get(name).copied().unwrap_or(0.0)
            };
            *error += misfit(view, &difference, beyond, own)?;
        }
    }
    Some(errors)
}

type Offsets = BTreeMap<String, f64>;

fn named((name, known): (String, CategorySeed)) -> (String, f64) {
    (name, known.offset)
}

/// Mean weights and offsets of several models.
fn average(fits: &[(Vec<f64>, Offsets)]) -> (Vec<f64>, Offsets) {
    let share = 1.0 / fits.len().max(1) as f64;
    let mut weights = vec![0.0; fits.first().map_or(0, |(own, _)| own.len())];
    let mut offsets = Offsets::new();
    for (own, of_categories) in fits {
        weights.iter_mut().zip(own).for_each(|(sum, w)| *sum += share * w);
        for (name, offset) in of_categories {
            *offsets.entry(name.clone()).or_default() += share * offset;
        }
    }
    (weights, offsets)
}

/// sum (p - r)^2 - r^2 over the prompts behind `own`, with p = w . x + offset: w'Aw + 2 sum o w.F + sum n o^2 less
/// 2 (w.b + sum o R). Over models whose p sum to nothing on each prompt this is the squared error of their differences,
/// up to a constant: the mean reward of the prompt falls out.
fn misfit(view: View, weights: &[f64], offset: impl Fn(&str) -> f64, own: &Gathered) -> Option<f64> {
    let evidence: &LinearPrior = own.quality.get(&view)?;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let spread = evidence.centred(weights);
    let mut squared = dot(weights, spread.information()) - 2.0 * dot(weights, evidence.information());
    for (name, sums) in &own.categories {
        let offset = offset(name);
        let explained = sums
            .features
            .get(&view)
            .map_or(0.0, |features| dot(weights, features));
        squared += offset * (2.0 * explained + sums.prompts * offset - 2.0 * sums.reward);
    }
    Some(squared)
}

/// Whether two models answered the same prompts, as far as their sums tell.
fn same_prompts(a: &Gathered, b: &Gathered, view: View) -> bool {
    let first = |own: &Gathered| {
        let evidence = own.quality.get(&view)?;
        let ones: Vec<f64> = vec![1.0; evidence.dimensions()];
        evidence.centred(&ones).information().first().copied()
    };
    let (Some(own), Some(other)) = (first(a), first(b)) else {
        return false;
    };
    (a.prompts - b.prompts).abs() < 0.5 && (own - other).abs() <= 1e-6 * (1.0 + own.abs())
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::policy::Contexts;
    use crate::policy::seed::LabelledOutcome;

    /// Three models whose differences hang on the second feature by `slope`, beside noise.
    fn chosen(slope: f64, prompts: usize, same: bool) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut builder = SeedBuilder::default();
        for turn in 0..prompts {
            let mut features = [1.0_f32; 9];
            features[1..]
                .iter_mut()
                .for_each(|x| *x = rng.gen_range(-1.0..1.0));
            for (model, sign) in [("a", 1.0), ("b", 0.0), ("c", -1.0)] {
                let expected = 0.5 + sign * slope * f64::from(features[1]);
                let reward = f64::from(u8::from(rng.gen_bool(expected)));
                if same || turn % 3 != 0 || sign != 0.0 {
                    builder.add(&LabelledOutcome {
                        model,
                        category: Some(if turn % 2 == 0 { "even" } else { "odd" }),
                        contexts: Contexts {
                            text: Some(&features),
                            embedding: None,
                            words: &[],
                        },
                        reward,
                        length: None,
                        cost_usd: None,
                    });
                }
            }
        }
        choose(&builder, View::Text, &SeedSettings::default())
    }

    #[test]
    fn models_that_differ_are_held_loosely_and_models_that_do_not_firmly() {
        assert!(chosen(0.4, 1200, true) <= 128.0);
        assert!(chosen(0.0, 1200, true) >= 512.0);
    }

    #[test]
    fn nothing_is_chosen_from_few_prompts_or_from_different_ones() {
        assert_eq!(chosen(0.4, 100, true), RIDGE);
        assert_eq!(chosen(0.4, 1200, false), RIDGE);
    }

    #[test]
    fn the_misfit_by_hand() {
        // Two prompts of one category, x = (1, 2) with r = 1 and x = (1, 0) with r = 0; p = 0.1 + 0.2 x2 + 0.3.
        // p = 0.8 and 0.4: (0.64 - 1.6) + 0.16 = -0.8.
        let mut builder = SeedBuilder::default();
        for (features, reward) in [([1.0, 2.0], 1.0), ([1.0, 0.0], 0.0)] {
            builder.add(&LabelledOutcome {
                model: "a",
                category: Some("maths"),
                contexts: Contexts {
                    text: Some(&features),
                    embedding: None,
                    words: &[],
                },
                reward,
                length: None,
                cost_usd: None,
            });
        }
        let all = builder.gather(|_| true);
        let error = misfit(View::Text, &[0.1, 0.2], |_| 0.3, &all["a"]).unwrap();
        assert!((error + 0.8).abs() < 1e-9, "{error}");
    }
}
