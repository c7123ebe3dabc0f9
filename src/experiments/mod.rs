//! Experiments that run themselves: who takes part and in which arm, what came of it, when it ends, and what is done
//! about it.
//!
//! Routing asks a [`Table`] (immutable, published whenever [`Experiments::generation`] moves) for an [`Enrolment`]
//! before it draws, and the log keeps the enrolment with the decision. The learner, the one owner of
//! [`Experiments`], tells it what each request came to and each score. Only an answer that the assigned arm gave
//! itself counts for the arm: a fallback's or a hedge's counts as the arm's failure, never as its quality.
//!
//! Everything is pure but for the log that the caller writes from [`Experiments::take_events`]; the state is
//! serialisable and every sum can be added to again after a restart.

mod definition;
mod engine;
mod event;
mod hypothesis;
mod intervention;
mod life;
mod overtaken;
mod repriced;
mod retrial;
mod table;
mod trigger;
mod view;

pub use crate::evaluation::ab::{Exposure, Guardrails, Hypothesis};
pub use definition::{
    ALPHA, Definition, DefinitionError, FORMER, FeatureVersions, Origin, PLANNED, Split, StickyBy, Variant,
};
pub use engine::Experiments;
pub use event::{Event, EventKind};
pub use intervention::{Intervention, InterventionError};
pub use retrial::{Rest, Rested};
pub use table::{Enrolment, Ruling, Table, Unit};
pub use trigger::{Terms, Trigger};
pub use view::{ArmView, ExperimentView, Phase, Point, SliceView};
