//! Experiments that run themselves.
