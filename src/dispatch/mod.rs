//! Runs a decision: one deadline, fallbacks, hedges, health.
