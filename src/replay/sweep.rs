//! Which prices of a dollar tell the whole curve of cost and quality.

use super::metrics::{Point, Swept, hull};

/// Points of a sweep.
pub(super) const POINTS: usize = 33;
/// Those that are measured first.
const COARSE: usize = 9;
/// Neighbours whose prices differ by less than this factor tell the same.
const NEAR: f64 = 1.01;

/// Measures `at` prices of a dollar from "money is no object" to "nothing but money is", and then wherever neighbours lie
/// furthest apart in the plane of cost and quality: a handful of prices moves nearly all of the traffic, and a grid
/// that is even in them tells the rest of the curve many times over. In order of price.
pub(super) fn trace(singles: &[Point], at: impl Fn(f64) -> Swept) -> Vec<(f64, Swept)> {
    let range = |pick: fn(&Point) -> f64| {
        let values = singles.iter().map(pick);
        let (least, most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        (least, most, (most - least).max(1e-12))
    };
    let (least, most, costs) = range(|point| point.cost_usd);
    let (_, _, qualities) = range(|point| point.quality);
    // One quality point over the range of the single models' costs.
    let (low, high) = (0.002 / most.max(1e-12), 2.0 / least.max(1e-12));
    let step = (high / low).ln() / (COARSE - 2) as f64;
    let first = std::iter::once(0.0).chain((0..COARSE - 1).map(|index| low * (step * index as f64).exp()));
    let mut curve: Vec<(f64, Swept)> = first.map(|price| (price, at(price))).collect();
    while curve.len() < POINTS {
        let apart = |pair: &[(f64, Swept)]| {
            let (a, b) = (pair[0].1.point, pair[1].1.point);
            ((a.cost_usd - b.cost_usd) / costs).hypot((a.quality - b.quality) / qualities)
        };
        let furthest = curve
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| pair[0].0 <= 0.0 || pair[1].0 / pair[0].0 > NEAR)
            .max_by(|(_, a), (_, b)| apart(a).total_cmp(&apart(b)));
        let Some((index, pair)) = furthest else { break };
        let price = match pair[0].0 {
            // Between nothing and something: what is a tenth of it.
            zero if zero <= 0.0 => pair[1].0 / 10.0,
            price => (price * pair[1].0).sqrt(),
        };
        curve.insert(index + 1, (price, at(price)));
    }
    curve
}

/// The corners of the best mixes of single models.
pub(super) fn of_mixes(singles: &[Point]) -> Vec<(f64, Swept)> {
    let dearest = singles.iter().map(|point| point.cost_usd).fold(0.0, f64::max);
    let swept = |point: Point| Swept {
        point,
        dearest_share: f64::from(u8::from(point.cost_usd >= dearest)),
    };
    hull(singles)
        .into_iter()
        .map(|point| (0.0, swept(point)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_gather_where_the_traffic_moves() {
        let point = |cost_usd, quality| Point { cost_usd, quality };
        let singles = [point(0.001, 0.5), point(0.01, 0.9)];
        // Everything moves within a tenth of the price 30.
        let at = |price: f64| {
            let share = ((33.0 - price) / 6.0).clamp(0.0, 1.0);
            Swept {
                point: point(0.001 + 0.009 * share, 0.5 + 0.4 * share.sqrt()),
                dearest_share: share,
            }
        };
        let curve = trace(&singles, at);
        assert_eq!(curve.len(), POINTS);
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order");
        assert_eq!(curve[0].0, 0.0);
        let moving = curve
            .iter()
            .filter(|(price, _)| (27.0..33.0).contains(price))
            .count();
        assert!(moving >= 12, "an even grid has one there: {moving}");
        let gaps = curve
            .windows(2)
            .map(|pair| pair[0].1.dearest_share - pair[1].1.dearest_share);
        // Neighbours within a factor of 1.01 are left; a wider pair is halved, so that 1.02 is as far as they get.
        assert!(gaps.fold(0.0, f64::max) < 0.02 * 33.0 / 6.0);
    }
}
