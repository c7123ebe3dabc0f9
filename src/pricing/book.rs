//! The prices of every arm over time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::price::{Price, Tariff};
use crate::arm::ArmId;
use crate::units::UnixMs;

/// A price and the moment from which it holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dated {
    /// It holds for attempts sent at this moment or later, until the next one holds.
    pub from: UnixMs,
    /// The price.
    pub price: Arc<Price>,
}

/// The dated prices of every arm. An arm that is not in it has no known price.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PriceBook {
    arms: BTreeMap<ArmId, Vec<Dated>>,
}

/// A price that differs between two books.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PriceChange {
    /// Whose price.
    pub arm: ArmId,
    /// What held before; `None`: unknown.
    pub before: Option<Arc<Price>>,
    /// What holds now; `None`: unknown.
    pub after: Option<Arc<Price>>,
}

impl PriceBook {
    /// Enters a price of `arm` from a moment on. One entered for the same moment is replaced.
    pub fn insert(&mut self, arm: ArmId, from: UnixMs, price: Price) {
        let dated = self.arms.entry(arm).or_default();
        let price = Arc::new(price);
        match dated.binary_search_by_key(&from, |entry| entry.from) {
            Ok(same) => dated[same].price = price,
            Err(place) => dated.insert(place, Dated { from, price }),
        }
    }

    /// Replaces every price of `arm`.
    pub fn replace(&mut self, arm: &ArmId, prices: impl IntoIterator<Item = (UnixMs, Price)>) {
        self.arms.remove(arm);
        for (from, price) in prices {
            self.insert(arm.clone(), from, price);
        }
    }

    /// The tariff of `arm` for an attempt sent at `moment`. `None`: its price is not known then.
    #[must_use]
    pub fn at(&self, arm: &ArmId, moment: UnixMs) -> Option<Tariff<'_>> {
        Some(self.price(arm, moment)?.at(moment))
    }

    /// The price of `arm` that holds at `moment`, before any window.
    #[must_use]
    pub fn price(&self, arm: &ArmId, moment: UnixMs) -> Option<&Arc<Price>> {
        let dated = self.arms.get(arm)?;
        let holding = dated
            .partition_point(|entry| entry.from <= moment)
            .checked_sub(1)?;
        Some(&dated[holding].price)
    }

    /// All prices of `arm`, oldest first.
    #[must_use]
    pub fn history(&self, arm: &ArmId) -> &[Dated] {
        self.arms.get(arm).map_or(&[], Vec::as_slice)
    }

    /// What changes at `moment` if `newer` replaces this book: arms of either, in order of their ids.
    #[must_use]
    pub fn changes(&self, newer: &Self, moment: UnixMs) -> Vec<PriceChange> {
        let mut arms: Vec<&ArmId> = self.arms.keys().chain(newer.arms.keys()).collect();
        arms.sort();
        arms.dedup();
        arms.into_iter()
            .map(|arm| PriceChange {
                arm: arm.clone(),
                before: self.price(arm, moment).cloned(),
                after: newer.price(arm, moment).cloned(),
            })
            .filter(|change| change.before != change.after)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pricing::{PartialRates, PriceSpec};
    use crate::units::UsdPerMtok;

    fn price(input: f64) -> Price {
        Price::new(PriceSpec {
            rates: PartialRates {
                input: UsdPerMtok::from_dollars(input),
                output: UsdPerMtok::from_dollars(1.0),
                ..PartialRates::default()
            },
            ..PriceSpec::default()
        })
        .unwrap()
    }

    fn input_at(book: &PriceBook, arm: &ArmId, moment: i64) -> Option<f64> {
        let tariff = book.at(arm, UnixMs(moment))?;
        Some(tariff.price().rates(0).input.dollars())
    }

    #[test]
    fn the_latest_price_that_has_begun_holds() {
        let arm = ArmId::new("deepseek/flash");
        let mut book = PriceBook::default();
        book.insert(arm.clone(), UnixMs(200), price(0.3));
        book.insert(arm.clone(), UnixMs(100), price(0.14));
        assert_eq!(input_at(&book, &arm, 99), None);
        assert_eq!(input_at(&book, &arm, 100), Some(0.14));
        assert_eq!(input_at(&book, &arm, 199), Some(0.14));
        assert_eq!(input_at(&book, &arm, 200), Some(0.3));
        assert_eq!(input_at(&book, &ArmId::new("deepseek/other"), 200), None);
    }

    #[test]
    fn changes_name_what_was_and_what_is() {
        let (kept, cut, gone) = (ArmId::new("a/kept"), ArmId::new("b/cut"), ArmId::new("c/gone"));
        let mut old = PriceBook::default();
        let mut new = PriceBook::default();
        for book in [&mut old, &mut new] {
            book.insert(kept.clone(), UnixMs(0), price(1.0));
        }
        old.insert(cut.clone(), UnixMs(0), price(2.0));
        new.insert(cut.clone(), UnixMs(0), price(1.0));
        old.insert(gone.clone(), UnixMs(0), price(1.0));
        let changes = old.changes(&new, UnixMs(1));
        let arms: Vec<&ArmId> = changes.iter().map(|change| &change.arm).collect();
        assert_eq!(arms, [&cut, &gone]);
        assert_eq!(changes[1].after, None);
        assert!(old.changes(&old, UnixMs(1)).is_empty());
    }
}
