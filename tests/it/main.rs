//! All integration tests in one binary, so that the crate is linked once.

mod demo;
mod install;
mod sim;
mod tidy;
