//! Runs tests isolated from each other and from the runner, within deadlines, under a policy, from a
//! command line.

pub mod cli;
pub mod health;
pub mod job;
pub mod pool;
pub mod registry;
pub mod scale;
pub mod select;
pub(crate) mod sys;
pub mod tally;
pub mod verdict;
pub mod watch;
pub mod worker;
