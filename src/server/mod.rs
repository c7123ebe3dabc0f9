//! HTTP: routes, wire shapes, statuses.
