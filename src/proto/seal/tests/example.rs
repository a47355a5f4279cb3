//! One worked example.
