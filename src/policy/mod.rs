//! Policies: from a context to a probability for each eligible arm.
