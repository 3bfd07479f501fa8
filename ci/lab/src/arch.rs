//! The five architectures and their names in other people's worlds.

use std::fmt;
use std::str::FromStr;

use crate::error::LabError;

/// An architecture with KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Arch {
    #[serde(rename = "x86_64")]
    X86_64,
    Aarch64,
    Ppc64le,
    Riscv64,
    S390x,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::X86_64, Self::Aarch64, Self::Ppc64le, Self::Riscv64, Self::S390x];

    /// Our id.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Ppc64le => "ppc64le",
            Self::Riscv64 => "riscv64",
            Self::S390x => "s390x",
        }
    }

    /// The architecture of this machine, if it is one of ours.
    #[must_use]
    pub fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => Some(Self::Ppc64le),
            id => id.parse().ok(),
        }
    }

    /// Debian's name.
    #[must_use]
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
            Self::Ppc64le => "ppc64el",
            Self::Riscv64 => "riscv64",
            Self::S390x => "s390x",
        }
    }

    /// Debian kernel flavours to take, the best first.
    #[must_use]
    pub fn kernel_flavours(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["cloud-amd64", "amd64"],
            Self::Aarch64 => &["cloud-arm64", "arm64"],
            Self::Ppc64le => &["powerpc64le"],
            Self::Riscv64 => &["riscv64"],
            Self::S390x => &["s390x"],
        }
    }

    /// Rust's target.
    #[must_use]
    pub fn rust_target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
            Self::Ppc64le => "powerpc64le-unknown-linux-gnu",
            Self::Riscv64 => "riscv64gc-unknown-linux-gnu",
            Self::S390x => "s390x-unknown-linux-gnu",
        }
    }

    /// GNU's triple, as in `TRIPLE-gcc`.
    #[must_use]
    pub fn gnu_triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
            Self::Ppc64le => "powerpc64le-linux-gnu",
            Self::Riscv64 => "riscv64-linux-gnu",
            Self::S390x => "s390x-linux-gnu",
        }
    }

    /// QEMU's system emulator and the Debian package that holds it.
    #[must_use]
    pub fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
            Self::Ppc64le => ("qemu-system-ppc64", "qemu-system-ppc"),
            Self::Riscv64 => ("qemu-system-riscv64", "qemu-system-misc"),
            Self::S390x => ("qemu-system-s390x", "qemu-system-misc"),
        }
    }

    /// Where a built kernel tree has its boot image.
    #[must_use]
    pub fn tree_images(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["arch/x86/boot/bzImage"],
            Self::Aarch64 => &["arch/arm64/boot/Image", "arch/arm64/boot/Image.gz"],
            Self::Ppc64le => &["vmlinux", "arch/powerpc/boot/zImage"],
            Self::Riscv64 => &["arch/riscv/boot/Image", "arch/riscv/boot/Image.gz"],
            Self::S390x => &["arch/s390/boot/bzImage"],
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl FromStr for Arch {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        Self::ALL.into_iter().find(|arch| arch.id() == text || arch.debian() == text).ok_or_else(
            || {
                let known = Self::ALL.map(Self::id).join(", ");
                LabError::Other(format!("architecture {text} is not known: {known}"))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_our_names_and_those_of_debian() {
        assert_eq!("ppc64le".parse::<Arch>().ok(), Some(Arch::Ppc64le));
        assert_eq!("arm64".parse::<Arch>().ok(), Some(Arch::Aarch64));
        assert!("vax".parse::<Arch>().is_err());
    }
}
