//! What the unit tests share: a deterministic speech-like clip, a correlator and WAV files.

#[path = "../../tests/it/support/speech.rs"]
mod speech_support;
#[path = "../../tests/it/support/wav.rs"]
pub mod wav;

pub use speech_support::{best_correlation, correlation, speech};

/// Makes `assert_no_alloc` mean something in unit tests (in release builds the crate has no such type).
#[cfg(debug_assertions)]
#[global_allocator]
static ALLOCATOR: assert_no_alloc::AllocDisabler = assert_no_alloc::AllocDisabler;
