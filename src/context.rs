//! The context of a decision: what is known of a request before an arm is chosen.
