//! What a person writes to name a kernel.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::LabError;

/// `debian:SUITE`, `debian:VERSION`, `path:IMAGE[,modules=DIR]` or `tree:DIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelSpec {
    /// The newest kernel of a Debian suite.
    DebianSuite(String),
    /// The newest kernel in the archive whose version starts so.
    DebianVersion(String),
    /// A boot image, and the directory that holds its modules.
    Path {
        /// The boot image.
        image: PathBuf,
        /// Where its modules lie, at any depth.
        modules: Option<PathBuf>,
    },
    /// A built kernel tree.
    Tree(PathBuf),
}

impl FromStr for KernelSpec {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let wrong = |why: &str| LabError::Kernel { spec: text.to_owned(), why: why.to_owned() };
        let forms =
            "say debian:SUITE, debian:VERSION, path:IMAGE[,modules=DIR], tree:DIR or a directory";
        let Some((kind, rest)) = text.split_once(':') else {
            let path = PathBuf::from(text);
            return if path.is_dir() { Ok(Self::Tree(path)) } else { Err(wrong(forms)) };
        };
        if rest.is_empty() {
            return Err(wrong(forms));
        }
        match kind {
            "debian" if rest.starts_with(|c: char| c.is_ascii_digit()) => {
                Ok(Self::DebianVersion(rest.to_owned()))
            }
            "debian" => Ok(Self::DebianSuite(rest.to_owned())),
            "path" => {
                let (image, modules) = match rest.split_once(",modules=") {
                    Some((image, modules)) => (image, Some(PathBuf::from(modules))),
                    None => (rest, None),
                };
                Ok(Self::Path { image: PathBuf::from(image), modules })
            }
            "tree" => Ok(Self::Tree(PathBuf::from(rest))),
            _ => Err(wrong(forms)),
        }
    }
}

impl fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DebianSuite(name) | Self::DebianVersion(name) => write!(f, "debian:{name}"),
            Self::Path { image, modules: None } => write!(f, "path:{}", image.display()),
            Self::Path { image, modules: Some(modules) } => {
                write!(f, "path:{},modules={}", image.display(), modules.display())
            }
            Self::Tree(tree) => write!(f, "tree:{}", tree.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written() {
        for text in
            ["debian:trixie", "debian:6.12", "path:/a/bzImage", "path:/a/b,modules=/c", "tree:/d"]
        {
            assert_eq!(
                text.parse::<KernelSpec>().map(|spec| spec.to_string()).ok().as_deref(),
                Some(text)
            );
        }
        assert_eq!("debian:6.12".parse().ok(), Some(KernelSpec::DebianVersion("6.12".into())));
        assert_eq!("debian:sid".parse().ok(), Some(KernelSpec::DebianSuite("sid".into())));
    }

    #[test]
    fn nonsense_is_told_what_to_say() {
        for text in ["fedora:40", "debian:", "6.12"] {
            let error = text.parse::<KernelSpec>().expect_err("must fail").to_string();
            assert!(error.contains("debian:SUITE"), "{error}");
        }
    }
}
