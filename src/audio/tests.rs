//! The whole room: the thread, its file and null backends, and a leg fed with real Opus.
