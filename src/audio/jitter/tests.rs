//! Arrival traces.
