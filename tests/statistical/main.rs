//! Statistical tests: scenarios as data, accepted ranges with their reason, a stated false-alarm rate.

mod dispatch;
mod experiments;
mod money;
mod off_policy;
mod policy;
mod seeded;
