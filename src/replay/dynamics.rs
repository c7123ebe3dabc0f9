//! How a run goes over time: phases between changes, spending in windows, and how soon traffic moves after a change.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::metrics::{Step, bootstrap, mean, mean_point};
use super::scenario::Resolved;

/// Requests in a window of spending.
const WINDOW: usize = 200;
/// Requests over which a share is averaged, beside the average over the orders.
const TRAILING: usize = 15;
/// Share of the whole shift after which traffic counts as moved.
const MOVED: f64 = 0.75;
/// A new model is adopted once it gets this share and keeps it for so many requests.
const ADOPTED: (f64, usize) = (0.1, 50);

/// One order's run, as far as its course matters.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// The decisions, in order.
    pub steps: Vec<Step>,
    /// Drift alarms raised.
    pub alarms: usize,
    /// What the audit found.
    pub audit: Option<Audited>,
}

/// What an audit has found of the difference between the policy and its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Audited {
    /// Quality of the policy less that of the reference, doubly robust.
    pub difference: f64,
    /// Half the width of its always-valid interval; infinite while there is too little.
    pub half_width: f64,
    /// Factor on the promised margin that it led to.
    pub margin_scale: f64,
}

/// The stretches between changes, each with something in it.
#[must_use]
pub fn phases(changes: &[Resolved], requests: usize) -> Vec<Range<usize>> {
    let mut edges = vec![0, requests];
    edges.extend(changes.iter().flat_map(|change| [change.from, change.until]));
    edges.retain(|&edge| edge <= requests);
    edges.sort_unstable();
    edges.dedup();
    edges.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Largest spending in any [`WINDOW`] requests, over what they may spend; 0 for a shorter run.
#[must_use]
pub fn worst_window(steps: &[Step], budget_usd: f64) -> f64 {
    let sums = steps
        .windows(WINDOW)
        .map(|window| window.iter().map(|step| step.cost_usd).sum::<f64>());
    sums.fold(0.0, f64::max) / (budget_usd * WINDOW as f64)
}

/// Share of a model at each request: mean over the orders and the latest [`TRAILING`] requests.
#[must_use]
pub fn shares(courses: &[Course], model: usize) -> Vec<f64> {
    let length = courses.iter().map(|course| course.steps.len()).min().unwrap_or(0);
    let at = |request: usize| {
        let hits = courses
            .iter()
            .filter(|course| course.steps[request].model == model)
            .count();
        hits as f64 / courses.len().max(1) as f64
    };
    let raw: Vec<f64> = (0..length).map(at).collect();
    (0..length)
        .map(|request| mean(&raw[(request + 1).saturating_sub(TRAILING)..=request]))
        .collect()
}

/// Regret against the best model of each prompt, summed up to each request: mean over the orders.
#[must_use]
pub fn regret(courses: &[&Course]) -> Vec<f64> {
    let length = courses.iter().map(|course| course.steps.len()).min().unwrap_or(0);
    let mut so_far = 0.0;
    (0..length)
        .map(|request| {
            let lost = courses.iter().map(|course| {
                let step = &course.steps[request];
                step.best - step.reward
            });
            so_far += lost.sum::<f64>() / courses.len() as f64;
            so_far
        })
        .collect()
}

/// Requests from `start` on until the share has moved [`MOVED`] of the way from `before` to `after`.
#[must_use]
pub fn moved_after(shares: &[f64], start: usize, before: f64, after: f64) -> Option<usize> {
    let goal = before + MOVED * (after - before);
    let there = |share: &f64| {
        if after < before {
            *share <= goal
        } else {
            *share >= goal
        }
    };
    shares.get(start..)?.iter().position(there).map(|index| index + 1)
}

/// Requests from `start` on until the share is at least [`ADOPTED`] and stays there.
#[must_use]
pub fn adopted_after(shares: &[f64], start: usize) -> Option<usize> {
    let (least, stay) = ADOPTED;
    let later = shares.get(start..)?;
    (0..later.len().checked_sub(stay)?)
        .find(|&index| later[index..index + stay].iter().all(|&share| share >= least))
        .map(|index| index + 1)
}

/// What changes did to a policy, for `metrics.json`.
#[must_use]
pub fn summary(courses: &[Course], changes: &[Resolved], budget_usd: Option<f64>) -> Map<String, Value> {
    let requests = courses.iter().map(|course| course.steps.len()).min().unwrap_or(0);
    let mut object = Map::new();
    let over = |pick: &dyn Fn(&Course) -> f64| courses.iter().map(pick).collect::<Vec<f64>>();
    let phases = phases(changes, requests);
    let mut worst_phase: Option<f64> = None;
    let rows: Vec<Value> = phases
        .iter()
        .map(|phase| {
            let part = |course: &Course| mean_point(course.steps[phase.clone()].iter());
            let quality = over(&|course| part(course).quality);
            let used = budget_usd.map(|budget| mean(&over(&|course| part(course).cost_usd / budget)));
            worst_phase = match (worst_phase, used) {
                (Some(worst), Some(used)) => Some(f64::max(worst, used)),
                (worst, used) => used.or(worst),
            };
            json!({
                "from": phase.start, "until": phase.end, "mean_quality": mean(&quality),
                "mean_quality_ci95": bootstrap(&quality), "budget_use": used,
            })
        })
        .collect();
    object.insert("phases".to_owned(), Value::Array(rows));
    object.insert("worst_phase_budget_use".to_owned(), json!(worst_phase));
    if let Some(budget) = budget_usd {
        let windows = over(&|course| worst_window(&course.steps, budget));
        let most = windows.iter().copied().fold(0.0, f64::max);
        object.insert(
            "worst_200_budget_use".to_owned(),
            json!({"mean": mean(&windows), "max": most}),
        );
    }
    let spent = over(&|course| course.steps.iter().map(|step| step.cost_usd).sum());
    let explored = over(&|course| {
        course
            .steps
            .iter()
            .filter(|step| step.explored)
            .map(|step| step.cost_usd)
            // A plain sum over nothing is -0.
            .fold(0.0, |sum, cost| sum + cost)
    });
    object.insert(
        "explored_spend_share".to_owned(),
        json!(mean(&explored) / mean(&spent).max(1e-300)),
    );
    let audits: Vec<Audited> = courses.iter().filter_map(|course| course.audit).collect();
    if !audits.is_empty() {
        let over = |pick: &dyn Fn(&Audited) -> f64| mean(&audits.iter().map(pick).collect::<Vec<_>>());
        let half = over(&|audit| audit.half_width);
        let audit = json!({
            "difference": over(&|audit| audit.difference),
            "half_width": half.is_finite().then_some(half),
            "margin_scale": over(&|audit| audit.margin_scale),
        });
        object.insert("audit".to_owned(), audit);
    }
    let alarms: usize = courses.iter().map(|course| course.alarms).sum();
    let decided = courses.iter().map(|course| course.steps.len()).sum::<usize>();
    object.insert(
        "alarms_per_10000".to_owned(),
        json!(alarms as f64 * 1e4 / decided.max(1) as f64),
    );
    let moves = changes
        .iter()
        .map(|change| shift(courses, change, requests))
        .collect();
    object.insert("changes".to_owned(), Value::Array(moves));
    object
}

/// How soon traffic left a model and came back to it.
fn shift(courses: &[Course], change: &Resolved, requests: usize) -> Value {
    let shares = shares(courses, change.model);
    let late_half = |range: Range<usize>| {
        let middle = range.start + range.len() / 2;
        mean(shares.get(middle..range.end).unwrap_or(&[]))
    };
    let until = change.until.min(requests);
    let (before, during, after) = (
        late_half(0..change.from),
        late_half(change.from..until),
        late_half(until..requests),
    );
    let moves = !change.absent && change.from > 0;
    let returns = until < requests;
    json!({
        "model": change.model, "from": change.from, "until": until,
        "share_before": before, "share_during": during, "share_after": after,
        "moved_after": moves.then(|| moved_after(&shares, change.from, before, during)).flatten(),
        "back_after": (moves && returns).then(|| moved_after(&shares, until, during, after)).flatten(),
        "adopted_after": (change.absent && returns).then(|| adopted_after(&shares, until)).flatten(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(model: usize, cost_usd: f64) -> Step {
        Step {
            model,
            reward: 1.0,
            cost_usd,
            best: 1.0,
            explored: false,
        }
    }

    #[test]
    fn a_shift_is_counted_from_its_cause() {
        let shares: Vec<f64> = (0..100)
            .map(|i| if i < 40 { 1.0 } else { 1.0 - (i - 40) as f64 / 20.0 })
            .collect();
        // From 1 to 0 in 20 requests: three quarters are reached at the 16th.
        assert_eq!(moved_after(&shares[..60], 40, 1.0, 0.0), Some(16));
        assert_eq!(moved_after(&shares, 40, 1.0, -10.0), None);
        let mut grown = vec![0.0; 30];
        grown.extend([0.5; 5]);
        grown.push(0.0);
        grown.extend([0.2; 60]);
        assert_eq!(adopted_after(&grown, 30), Some(7));
    }

    #[test]
    fn regret_adds_up_over_the_requests() {
        let course = |rewards: [f64; 3]| Course {
            steps: rewards
                .map(|reward| Step {
                    reward,
                    ..step(0, 1.0)
                })
                .to_vec(),
            ..Course::default()
        };
        let (first, second) = (course([0.0, 1.0, 0.5]), course([1.0, 1.0, 0.0]));
        assert_eq!(regret(&[&first, &second]), [0.5, 0.5, 1.25]);
        assert!(regret(&[]).is_empty());
    }

    #[test]
    fn nothing_explored_is_plain_nothing() {
        let course = Course {
            steps: vec![step(0, 1.0)],
            ..Course::default()
        };
        let share = summary(&[course], &[], None)["explored_spend_share"].clone();
        assert_eq!(share.to_string(), "0.0");
    }

    #[test]
    fn the_worst_window_is_found_wherever_it_is() {
        let mut steps = vec![step(0, 1.0); 400];
        steps[300..310].iter_mut().for_each(|step| step.cost_usd = 5.0);
        assert!((worst_window(&steps, 1.0) - 240.0 / 200.0).abs() < 1e-12);
        let change = Resolved {
            model: 0,
            from: 100,
            until: 200,
            score_factor: 0.5,
            price: 1.0,
            misjudged: 1.0,
            absent: false,
        };
        assert_eq!(phases(&[change], 400), [0..100, 100..200, 200..400]);
    }
}
