//! Joins scores to decisions.
