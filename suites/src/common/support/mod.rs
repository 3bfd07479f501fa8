//! What several test files share; no tests stand here.

pub mod boundary;
