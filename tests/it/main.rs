//! All integration tests in one binary, so that the crate is linked once.

mod control;
mod demo;
mod install;
mod pulse;
mod sim;
mod support;
mod tidy;
