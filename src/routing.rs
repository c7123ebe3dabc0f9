//! The only composer of the pure rooms: from a request to a decision.
