//! All integration tests in one binary, so that the crate is linked once.

mod backup;
mod calls;
mod control;
mod demo;
mod install;
mod pulse;
mod sound;
mod support;
mod tidy;
