//! Runs tests isolated from each other and from the runner, within deadlines.

pub mod health;
pub mod job;
pub mod pool;
pub mod scale;
pub(crate) mod sys;
pub mod verdict;
pub mod watch;
pub mod worker;

pub use worker::keep_open;
