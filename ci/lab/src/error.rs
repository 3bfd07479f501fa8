//! What can go wrong before a host runs.

use std::path::{Path, PathBuf};

/// The library's result.
pub type Result<T> = std::result::Result<T, LabError>;

/// A host that could not be started, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A file operation failed.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// A helper program failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// The command.
        program: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A needed program is not installed.
    #[error(
        "{program} is not installed: it is in the Debian package {package}; as root: ./run_tests.sh lab setup"
    )]
    Missing {
        /// The program.
        program: String,
        /// The package that holds it.
        package: String,
    },
    /// An emulator is older than the profile needs.
    #[error(
        "{program} is version {found}, profile {profile} needs {needed}; as root: ./run_tests.sh lab setup"
    )]
    TooOld {
        /// The program.
        program: String,
        /// Its version.
        found: String,
        /// The profile.
        profile: String,
        /// The version that it needs.
        needed: String,
    },
    /// A host profile that does not exist or cannot be read.
    #[error("host profile {name}: {why}")]
    Profile {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A kernel that cannot be had.
    #[error("kernel {spec}: {why}")]
    Kernel {
        /// As it was asked for.
        spec: String,
        /// What is wrong.
        why: String,
    },
    /// The machine's apt sources name no Debian mirror.
    #[error("no Debian mirror: {0}")]
    Mirror(String),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// Adds the path to an I/O error.
pub(crate) trait At<T> {
    /// Adds the path.
    fn at(self, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| LabError::Io { path: path.as_ref().to_owned(), error })
    }
}
