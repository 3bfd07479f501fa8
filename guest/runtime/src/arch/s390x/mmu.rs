//! There is no translation: addresses are real.
