//! Why a test body stops before its end.

use std::fmt;

/// Why a test body stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// KVM broke its contract.
    Fail(String),
    /// We, or the environment, are wrong.
    Error(String),
    /// The deadline passed; the text tells the guest's last known state.
    Timeout(String),
    /// A requirement that only shows late is missing.
    Skip(String),
}

impl Failure {
    /// Adds what was being done when the failure came up.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        match self {
            Self::Fail(m) => Self::Fail(format!("{what}: {m}")),
            Self::Error(m) => Self::Error(format!("{what}: {m}")),
            Self::Timeout(m) => Self::Timeout(format!("{what}: {m}")),
            skip @ Self::Skip(_) => skip,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail(m) | Self::Error(m) | Self::Timeout(m) | Self::Skip(m) => f.write_str(m),
        }
    }
}

impl std::error::Error for Failure {}

/// What a test body returns.
pub type TestResult<T = ()> = Result<T, Failure>;
