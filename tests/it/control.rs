//! The control socket and the command line, against a stand-in for the daemon's loop that answers as each test says; and what
//! systemd does with a real daemon.

mod clients;
mod command_line;
mod fake;
mod files;
mod systemd;
mod watching;
