//! Money: dated prices, usage to dollars, and which moment decides.
//!
//! Amounts are whole nano-dollars and a call is rounded once, so that our books equal the provider's bill.
//! A model without a price has no tariff: it is refused under a budget and never counted as free.
//!
//! **The moment that decides** a dated price or a time window is the one at which the attempt was sent to
//! the provider. It is known when the decision is made, so that the estimate and the bill use the same
//! tariff, and a slow answer cannot become dearer than what was promised. Which list of prices it is looked up in
//! is settled by the decision: one that is changed while a request is under way counts from the next request on.

mod book;
pub mod budget;
mod estimate;
mod media;
mod price;
mod rates;
mod window;

pub use book::{Dated, PriceBook, PriceChange};
pub use estimate::{ContentKind, Corrections, CostEstimate, TokenEstimate, raw_input_tokens};
pub use media::{media_tokens, units};
pub use price::{MAX_ROUTING_FEE_PERCENT, Price, PriceProblem, PriceSpec, Tariff, TierSpec};
pub use rates::{Fees, PartialRates, Rates, Units};
pub use window::{Multiplier, Weekdays, Window, WindowError};
