//! The control socket and the command line, against a stand-in for the daemon's loop that answers as each test says.

mod clients;
mod command_line;
mod fake;
mod files;
mod watching;
