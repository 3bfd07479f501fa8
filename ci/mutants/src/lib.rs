//! Mutants: one bug at a time in a real KVM, and the tests that must see it.
//!
//! A mutant is a few anchored edits of a kernel's source: a file, a function, an expression to
//! find in it, and what to put in its place. All mutants are woven into one kernel, each behind
//! the module parameter `kvm.mutant`, so that one build serves all of them.

pub mod anchor;
pub mod kernel;
mod lexer;
pub mod mutant;
pub mod peers;
pub mod report;
pub mod run;
pub mod source;
pub mod weave;
