//! Where tests come from.

mod native;
mod programs;

pub use native::Native;
pub use programs::Programs;

use defs::arch::Arch;
use results::HostFacts;

use crate::test::Test;

/// A suite of tests.
pub trait Source {
    /// Its tests. Where nobody has looked at KVM, such as for a list of tests, `facts` hold the
    /// architecture alone.
    ///
    /// # Errors
    ///
    /// The suite cannot be read.
    fn tests(&self, facts: &HostFacts) -> Result<Vec<Test>, SourceError>;
}

/// Why a suite cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// All that is known of a host that nobody has looked at.
pub fn unprobed() -> HostFacts {
    HostFacts { arch: native_architecture().to_owned(), ..HostFacts::default() }
}

/// This machine's architecture, as tests name it.
pub fn native_architecture() -> &'static str {
    Arch::native().map_or(std::env::consts::ARCH, Arch::id)
}
