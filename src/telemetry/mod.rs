//! Sliding windows of latency, errors and health.
