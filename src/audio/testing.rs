//! What the unit tests of this room share: a deterministic speech-like clip and a correlator.

#[path = "../../tests/it/support/speech.rs"]
mod speech_support;

pub use speech_support::{best_correlation, correlation, speech};

/// Makes `assert_no_alloc` mean something in unit tests (in release builds the crate has no such type).
#[cfg(debug_assertions)]
#[global_allocator]
static ALLOCATOR: assert_no_alloc::AllocDisabler = assert_no_alloc::AllocDisabler;
