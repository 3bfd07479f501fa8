//! Nested virtualization.

pub mod nested;
