//! One adapter for each wire format.
