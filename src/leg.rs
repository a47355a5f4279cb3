//! (see the crate's map)
