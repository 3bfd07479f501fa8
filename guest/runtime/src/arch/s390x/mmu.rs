//! There is no translation: addresses are real.

/// There are no guard pages.
pub(crate) fn protect_stacks(_: u64) {}
