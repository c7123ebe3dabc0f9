//! Figures of a run, of a sweep and of many seeds, with bootstrap intervals.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// One decided prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Index of the model.
    pub model: usize,
    /// Its score.
    pub reward: f64,
    /// Its recorded dollars.
    pub cost_usd: f64,
    /// Score of the best model on this prompt.
    pub best: f64,
    /// Whether exploration chose it.
    pub explored: bool,
}

/// A point of the cost and quality plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Mean dollars a request.
    pub cost_usd: f64,
    /// Mean score.
    pub quality: f64,
}

/// What one price of a dollar came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Swept {
    /// Where it lies in the cost and quality plane.
    pub point: Point,
    /// Share in [0,1] of the requests that the dearest single model got.
    pub dearest_share: f64,
}

/// Everything measured in one run over the stream.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The decisions, in order.
    pub steps: Vec<Step>,
    /// Nanoseconds that each decision took.
    pub decide_ns: Vec<u64>,
    /// Drift alarms raised.
    pub alarms: usize,
    /// What the audit found, where there is one.
    pub audit: Option<super::dynamics::Audited>,
}

impl Run {
    /// Where the run lies in the cost and quality plane.
    #[must_use]
    pub fn point(&self) -> Point {
        mean_point(self.steps.iter())
    }

    /// The run as a point of a sweep.
    #[must_use]
    pub fn swept(&self, singles: &[Point]) -> Swept {
        let dearest = dearest(singles);
        let theirs = self.steps.iter().filter(|step| Some(step.model) == dearest);
        Swept {
            point: self.point(),
            dearest_share: theirs.count() as f64 / self.steps.len().max(1) as f64,
        }
    }
}

/// Mean cost and score of steps.
pub fn mean_point<'a>(steps: impl Iterator<Item = &'a Step>) -> Point {
    let (mut count, mut point) = (
        0.0_f64,
        Point {
            cost_usd: 0.0,
            quality: 0.0,
        },
    );
    for step in steps {
        count += 1.0;
        point.cost_usd += step.cost_usd;
        point.quality += step.reward;
    }
    Point {
        cost_usd: point.cost_usd / count.max(1.0),
        quality: point.quality / count.max(1.0),
    }
}

/// The non-decreasing upper convex hull of points, in order of cost (RouterBench, arXiv 2403.12031).
#[must_use]
pub fn hull(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| {
        a.cost_usd
            .total_cmp(&b.cost_usd)
            .then(b.quality.total_cmp(&a.quality))
    });
    let mut hull: Vec<Point> = Vec::new();
    for point in sorted {
        if hull.last().is_some_and(|last| point.quality <= last.quality) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            let before = (b.quality - a.quality) * (point.cost_usd - b.cost_usd);
            let after = (point.quality - b.quality) * (b.cost_usd - a.cost_usd);
            if before > after {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

/// Quality of a hull at a cost: linear between its points, level beyond its dearest, nothing below its cheapest.
#[must_use]
pub fn hull_at(hull: &[Point], cost_usd: f64) -> Option<f64> {
    let first = hull.first()?;
    if cost_usd < first.cost_usd * (1.0 - 1e-9) {
        return None;
    }
    for pair in hull.windows(2) {
        if cost_usd <= pair[1].cost_usd {
            let share = (cost_usd - pair[0].cost_usd) / (pair[1].cost_usd - pair[0].cost_usd).max(1e-300);
            return Some(pair[0].quality + share.clamp(0.0, 1.0) * (pair[1].quality - pair[0].quality));
        }
    }
    hull.last().map(|point| point.quality)
}

/// Area under the hull of `points` between the cheapest and the dearest single model's mean cost, over that range; where
/// all of them cost the same, the quality there. The cheapest single model belongs to every hull: any router can fall back
/// on it. `None` without points.
#[must_use]
pub fn aiq(points: &[Point], singles: &[Point]) -> Option<f64> {
    let cheapest = singles.iter().min_by(|a, b| a.cost_usd.total_cmp(&b.cost_usd))?;
    let dearest = singles.iter().map(|point| point.cost_usd).fold(0.0, f64::max);
    let range = dearest - cheapest.cost_usd;
    if points.is_empty() {
        return None;
    }
    let mut all = points.to_vec();
    all.push(*cheapest);
    let hull = hull(&all);
    // Means of equal costs differ by rounding.
    if range <= 1e-9 * dearest {
        return hull_at(&hull, dearest * (1.0 + 1e-9));
    }
    let mut edges: Vec<f64> = hull.iter().map(|point| point.cost_usd).collect();
    edges.extend([cheapest.cost_usd, dearest]);
    edges.retain(|&edge| (cheapest.cost_usd..=dearest).contains(&edge));
    edges.sort_by(f64::total_cmp);
    let area: f64 = edges
        .windows(2)
        .filter_map(|pair| {
            let (left, right) = (hull_at(&hull, pair[0])?, hull_at(&hull, pair[1])?);
            Some(0.5 * (left + right) * (pair[1] - pair[0]))
        })
        .sum();
    Some(area / range)
}

/// Index of the single model that costs most.
fn dearest(singles: &[Point]) -> Option<usize> {
    (0..singles.len()).max_by(|&a, &b| singles[a].cost_usd.total_cmp(&singles[b].cost_usd))
}

/// Average performance gap recovered between two models: the mean over the share of calls that the dearer one gets, from
/// none to all, of (quality - weak) / (strong - weak); a random split has one half (RouteLLM, arXiv 2406.18665). `None`
/// but for two models of which the dearer is the better.
#[must_use]
pub fn apgr(swept: &[Swept], singles: &[Point]) -> Option<f64> {
    let [a, b] = singles else { return None };
    let (weak, strong) = if a.cost_usd <= b.cost_usd { (a, b) } else { (b, a) };
    let gap = strong.quality - weak.quality;
    if swept.is_empty() || gap <= 0.0 {
        return None;
    }
    let recovered = |swept: &Swept| (swept.dearest_share, (swept.point.quality - weak.quality) / gap);
    let mut curve: Vec<(f64, f64)> = swept.iter().map(recovered).collect();
    curve.extend([(0.0, 0.0), (1.0, 1.0)]);
    curve.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let area = |pair: &[(f64, f64)]| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0;
    Some(curve.windows(2).map(area).sum())
}

/// Share of the best single model's cost that is saved at its quality: 1 - c / C with c the least cost at which the
/// hull of `points` reaches its quality. `None` where it never does.
#[must_use]
pub fn cost_saved(points: &[Point], singles: &[Point]) -> Option<f64> {
    let best = singles.iter().max_by(|a, b| {
        a.quality
            .total_cmp(&b.quality)
            .then(b.cost_usd.total_cmp(&a.cost_usd))
    })?;
    let hull = hull(points);
    let reached = hull.iter().position(|point| point.quality >= best.quality)?;
    let cost = match reached {
        0 => hull[0].cost_usd,
        _ => {
            let (below, above) = (hull[reached - 1], hull[reached]);
            let share = (best.quality - below.quality) / (above.quality - below.quality);
            below.cost_usd + share * (above.cost_usd - below.cost_usd)
        }
    };
    Some(1.0 - cost / best.cost_usd)
}

/// Figures of one seed: one main run, and the points of its sweep.
#[derive(Clone, Debug, Default)]
pub struct SeedFigures {
    /// Plain numbers by their key in `metrics.json`; `None` where they mean nothing.
    pub figures: BTreeMap<&'static str, Option<f64>>,
    /// Share, mean quality and mean cost of each model.
    pub arms: Vec<(f64, f64, f64)>,
    /// Points of the sweep.
    pub points: Vec<Point>,
    /// Decision times.
    pub decide_ns: Vec<u64>,
    /// The main run as it went.
    pub course: super::dynamics::Course,
}

/// Figures of a run, with those of its sweep where there is one.
#[must_use]
pub fn figures(
    run: &Run,
    sweep: &[Swept],
    singles: &[Point],
    budget_usd: Option<f64>,
    models: usize,
) -> SeedFigures {
    let point = run.point();
    let requests = run.steps.len() as f64;
    let regret: f64 = run.steps.iter().map(|step| step.best - step.reward).sum();
    let explored = run.steps.iter().filter(|step| step.explored).count() as f64;
    let points: Vec<Point> = sweep.iter().map(|swept| swept.point).collect();
    let own = [point];
    let curve = if points.is_empty() { &own[..] } else { &points };
    let arms = (0..models)
        .map(|model| {
            let chosen = run.steps.iter().filter(|step| step.model == model);
            let share = chosen.clone().count() as f64 / requests.max(1.0);
            let mean = mean_point(chosen);
            (share, mean.quality, mean.cost_usd)
        })
        .collect();
    SeedFigures {
        figures: BTreeMap::from([
            ("mean_quality", Some(point.quality)),
            ("mean_cost_usd", Some(point.cost_usd)),
            ("total_cost_usd", Some(point.cost_usd * requests)),
            ("budget_use", budget_usd.map(|budget| point.cost_usd / budget)),
            ("regret", Some(regret)),
            ("cost_saved_at_best_quality", cost_saved(curve, singles)),
            ("aiq", aiq(&points, singles)),
            ("apgr", (points.len() > 1).then(|| apgr(sweep, singles)).flatten()),
            ("explored_share", Some(explored / requests.max(1.0))),
        ]),
        arms,
        points,
        decide_ns: run.decide_ns.clone(),
        course: super::dynamics::Course::default(),
    }
}

/// Means over seeds with bootstrap intervals, under the keys of `metrics.json`.
#[must_use]
pub fn summary(requests: usize, seeds: &[SeedFigures], names: &[String]) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("requests".to_owned(), json!(requests));
    let keys: Vec<&'static str> = seeds
        .first()
        .map(|seed| seed.figures.keys().copied().collect())
        .unwrap_or_default();
    for key in ORDER.iter().filter(|key| keys.contains(key)) {
        let values: Option<Vec<f64>> = seeds.iter().map(|seed| seed.figures[*key]).collect();
        let (mean, interval) = match values {
            Some(values) => (json!(mean(&values)), json!(bootstrap(&values))),
            None => (Value::Null, Value::Null),
        };
        object.insert((*key).to_owned(), mean);
        object.insert(format!("{key}_ci95"), interval);
    }
    let mut nanos: Vec<u64> = seeds
        .iter()
        .flat_map(|seed| seed.decide_ns.iter().copied())
        .collect();
    nanos.sort_unstable();
    let at = |q: f64| {
        let index = ((nanos.len() as f64 * q) as usize).min(nanos.len().saturating_sub(1));
        nanos.get(index).map(|&ns| ns as f64 / 1000.0)
    };
    object.insert("decide_us".to_owned(), json!({"p50": at(0.5), "p99": at(0.99)}));
    let mut arms = Map::new();
    for (index, name) in names.iter().enumerate() {
        let over = |pick: fn(&(f64, f64, f64)) -> f64| {
            mean(
                &seeds
                    .iter()
                    .map(|seed| seed.arms.get(index).map_or(0.0, pick))
                    .collect::<Vec<_>>(),
            )
        };
        let figures = json!({
            "share": over(|arm| arm.0), "mean_quality": over(|arm| arm.1), "mean_cost_usd": over(|arm| arm.2),
        });
        arms.insert(name.clone(), figures);
    }
    object.insert("arms".to_owned(), Value::Object(arms));
    let length = seeds.iter().map(|seed| seed.points.len()).min().unwrap_or(0);
    if length > 1 {
        let point = |index: usize| {
            let over = |pick: fn(&Point) -> f64| {
                mean(
                    &seeds
                        .iter()
                        .map(|seed| pick(&seed.points[index]))
                        .collect::<Vec<_>>(),
                )
            };
            json!({"mean_cost_usd": over(|p| p.cost_usd), "mean_quality": over(|p| p.quality)})
        };
        object.insert("points".to_owned(), (0..length).map(point).collect());
    }
    object
}

/// Keys of the plain numbers, in the order in which they are written.
pub const ORDER: [&str; 9] = [
    "mean_quality",
    "mean_cost_usd",
    "total_cost_usd",
    "budget_use",
    "regret",
    "cost_saved_at_best_quality",
    "aiq",
    "apgr",
    "explored_share",
];

/// Arithmetic mean; 0 of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Percentile bootstrap of the mean over seeds, 95 %: 2000 resamples (Efron 1979). `None` for fewer than two.
#[must_use]
pub fn bootstrap(values: &[f64]) -> Option<[f64; 2]> {
    if values.len() < 2 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut means: Vec<f64> = (0..2000)
        .map(|_| {
            let resample = (0..values.len()).map(|_| values[rng.gen_range(0..values.len())]);
            resample.sum::<f64>() / values.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    Some([means[49], means[1949]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(cost_usd: f64, quality: f64) -> Point {
        Point { cost_usd, quality }
    }

    #[test]
    fn area_under_the_zero_router_by_hand() {
        // Hull (1, .4) - (2, .8) - (5, .9); the point (4, .5) is under it. Areas: .6 * 1 + .85 * 3 = 3.15, over 4.
        let singles = [point(1.0, 0.4), point(2.0, 0.8), point(4.0, 0.5), point(5.0, 0.9)];
        assert_eq!(hull(&singles).len(), 3);
        assert!((aiq(&singles, &singles).unwrap() - 3.15 / 4.0).abs() < 1e-12);
        assert!((hull_at(&hull(&singles), 1.5).unwrap() - 0.6).abs() < 1e-12);
    }

    #[test]
    fn a_curve_of_one_point_has_an_area_too() {
        // The cheapest is the best: the best mix is that one everywhere.
        let singles = [point(1.0, 0.7), point(3.0, 0.5)];
        assert_eq!(aiq(&hull(&singles), &singles), Some(0.7));
        // All cost the same, but for rounding: what counts is the quality.
        let alike = [point(0.1 + 0.2, 0.7), point(0.3, 0.5)];
        assert_eq!(aiq(&[point(0.3, 0.8)], &alike), Some(0.8));
        // ... at that cost, and not what a router reached for more.
        let found = aiq(&[point(0.3, 0.8), point(0.5, 0.9)], &alike).unwrap();
        assert!((found - 0.8).abs() < 1e-9, "{found}");
        assert_eq!(aiq(&[], &alike), None);
    }

    #[test]
    fn the_gap_recovered_by_hand() {
        let singles = [point(4.0, 0.9), point(1.0, 0.5)];
        let swept = |dearest_share, quality| Swept {
            point: point(0.0, quality),
            dearest_share,
        };
        // A random split recovers as much as it calls: one half.
        assert_eq!(apgr(&[swept(0.5, 0.7)], &singles), Some(0.5));
        // (0, 0) - (.25, .75) - (1, 1): .25 * .375 + .75 * .875 = .75.
        let found = apgr(&[swept(0.25, 0.8)], &singles).unwrap();
        assert!((found - 0.75).abs() < 1e-12);
        assert_eq!(
            apgr(&[swept(0.5, 0.7)], &[point(1.0, 0.9), point(4.0, 0.5)]),
            None
        );
        assert_eq!(apgr(&[swept(0.5, 0.7)], &singles[..1]), None);
    }

    #[test]
    fn a_router_that_reaches_the_best_for_less_saves_the_rest() {
        let singles = [point(1.0, 0.4), point(5.0, 0.9)];
        let curve = [point(1.0, 0.4), point(2.0, 1.0)];
        // Quality .9 lies 5/6 of the way from 1 to 2.
        let saved = cost_saved(&curve, &singles).unwrap();
        assert!((saved - (1.0 - (1.0 + 5.0 / 6.0) / 5.0)).abs() < 1e-12);
        assert_eq!(cost_saved(&[point(1.0, 0.5)], &singles), None);
    }

    #[test]
    fn an_interval_covers_its_mean() {
        let [low, high] = bootstrap(&[0.1, 0.2, 0.3, 0.4]).unwrap();
        assert!(low < 0.25 && 0.25 < high && low >= 0.1 && high <= 0.4);
        assert_eq!(bootstrap(&[0.5]), None);
    }
}
