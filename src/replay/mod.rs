//! Prequential replay over recorded outcomes.
