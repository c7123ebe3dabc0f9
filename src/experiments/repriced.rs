//! The way back of a model that was left out for its price. What cost too much need not cost too much for ever: when its
//! price has fallen, it is a candidate again at once, and an experiment asks what its new price makes of it. What was left
//! out because it was worse, or failed more often, is worse at any price, and stays out.

use super::definition::{Origin, Variant};
use super::engine::{Experiments, Record};
use super::event::EventKind;
use super::table::Ruling;
use super::view::Phase;
use crate::arm::ArmId;
use crate::evaluation::sequence::Interval;
use crate::units::UnixMs;

impl Experiments {
    /// Lets a model in again whose price has fallen, if that was all that kept it out: every experiment that leaves it out
    /// of `route` found it too dear for how good it is, and not worse than its measure by more than `allowed` quality
    /// points, by what was estimated. Whether there was any.
    pub fn reopen(&mut self, route: &str, model: &ArmId, allowed: f64, now: UnixMs) -> bool {
        let excluding: Vec<usize> = (0..self.records.len())
            .filter(|&index| excludes(&self.records[index], route, model))
            .collect();
        let open = !excluding.is_empty()
            && excluding
                .iter()
                .all(|&index| is_about_price(&self.records[index], allowed));
        for index in excluding.into_iter().filter(|_| open) {
            let record = &mut self.records[index];
            (record.ruling, record.phase) = (None, Phase::Undone);
            // Its question is another one at another price, and may be asked at once.
            record.moot = true;
            let name = record.definition.name.clone();
            self.generation += 1;
            let reason = format!("the price of {model} fell");
            self.log(now, &name, EventKind::Reopened { reason });
        }
        open
    }
}

/// Whether it leaves `model` out of `route` for every prompt.
pub(super) fn excludes(record: &Record, route: &str, model: &ArmId) -> bool {
    let definition = &record.definition;
    let excluded =
        matches!(&record.ruling, Some(Ruling::Exclude { variant: Variant::Model(out) }) if out == model);
    excluded && definition.route == route && definition.category.is_none()
}

/// Whether a lower price might have changed what it came to. What somebody ruled by hand stands.
fn is_about_price(record: &Record, allowed: f64) -> bool {
    let by_itself = matches!(record.definition.origin, Origin::NewModel | Origin::PriceChange)
        && record.phase == Phase::StoppedForHarm;
    let found = record.decided.iter().flat_map(|reading| &reading.comparisons);
    by_itself
        && found.into_iter().all(|found| {
            let fails = found
                .guardrails
                .iter()
                .any(|guard| guard.name != "cost" && guard.difference.interval.low > guard.limit);
            let worse = found
                .quality
                .is_some_and(|quality| is_worse(&quality.interval, allowed));
            !fails && !worse
        })
}

/// Whether a treatment was found worse than its control by more than `allowed`: shown to be worse at all, and by more than
/// that as far as was estimated. An interval beyond `allowed` would be too much to ask: where the treatment had to be
/// better, the experiment ends as soon as its interval leaves 0, however bad the treatment is. What is not shown to be
/// worse may have been estimated low by chance, where a price ended the experiment early.
fn is_worse(difference: &Interval, allowed: f64) -> bool {
    difference.high < 0.0 && difference.estimate < -allowed
}
