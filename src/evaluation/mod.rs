//! Statistics of experiments and off-policy estimates.
