//! Nested virtualization.

pub mod nested_svm;
