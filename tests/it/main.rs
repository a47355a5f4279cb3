//! All integration tests in one binary, so that the crate is linked once.

mod backup;
mod calls;
mod control;
mod demo;
mod devices;
mod disk;
mod install;
mod pulse;
mod recording;
mod soak;
mod sound;
mod support;
mod tidy;
