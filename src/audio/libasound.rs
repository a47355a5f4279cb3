//! What libasound says by itself: lines on standard error, a dozen for each attempt to find a card that is not there.

use std::{cell::RefCell, rc::Rc};

use alsa::Output;

/// Keeps what libasound says on this thread from here on off standard error, and forgets what it said before. What matters comes
/// as errors to whoever called it.
pub fn quieten() -> Option<Rc<RefCell<Output>>> {
    Output::local_error_handler().ok()
}
