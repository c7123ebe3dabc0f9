//! Fits projections, classifier and priors from recorded outcomes.
