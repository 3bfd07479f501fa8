//! Runs tests isolated from each other and from the runner, within deadlines, under a policy, from a
//! command line.

pub mod body;
pub mod cli;
pub mod health;
pub mod host;
pub mod job;
pub(crate) mod pattern;
pub mod pool;
pub mod registry;
pub mod scale;
pub mod select;
pub mod source;
pub(crate) mod sys;
pub mod tally;
pub mod test;
pub mod verdict;
pub mod watch;
pub mod worker;
pub mod yaml;
