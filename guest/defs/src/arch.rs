//! The architectures with KVM that there are tests for, and what the world calls them. Another one is
//! a row here; the compiler and `suites/tests/architectures.rs` then name every place that must know it.

use core::fmt;
use core::str::FromStr;

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Arch {
    X86_64,
    Aarch64,
    Ppc64le,
    Riscv64,
    S390x,
}

/// What it is called.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Here, and by `uname -m`.
    pub id: &'static str,
    /// By Debian.
    pub debian: &'static str,
    /// By the kernel's `make ARCH=`.
    pub kernel: &'static str,
    /// By rustc: the target of its GNU userland.
    pub rust_target: &'static str,
    /// By rustc: `target_arch`.
    pub target_arch: &'static str,
    /// By GNU, as in `TRIPLE-gcc`.
    pub gnu_triple: &'static str,
    /// QEMU's system emulator.
    pub qemu: &'static str,
    /// The Debian package that holds it.
    pub qemu_package: &'static str,
    /// The host profile (`ci/hosts`) that stands for it.
    pub default_host: &'static str,
}

/// The ids of all.
pub const IDS: [&str; Arch::ALL.len()] = {
    let mut ids = [""; Arch::ALL.len()];
    let mut n = 0;
    while n < ids.len() {
        ids[n] = Arch::ALL[n].id();
        n += 1;
    }
    ids
};

impl Arch {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::X86_64, Self::Aarch64, Self::Ppc64le, Self::Riscv64, Self::S390x];

    /// Its row.
    #[must_use]
    pub const fn names(self) -> &'static Names {
        match self {
            Self::X86_64 => &Names {
                id: "x86_64",
                debian: "amd64",
                kernel: "x86_64",
                rust_target: "x86_64-unknown-linux-gnu",
                target_arch: "x86_64",
                gnu_triple: "x86_64-linux-gnu",
                qemu: "qemu-system-x86_64",
                qemu_package: "qemu-system-x86",
                default_host: "amd64-svm",
            },
            Self::Aarch64 => &Names {
                id: "aarch64",
                debian: "arm64",
                kernel: "arm64",
                rust_target: "aarch64-unknown-linux-gnu",
                target_arch: "aarch64",
                gnu_triple: "aarch64-linux-gnu",
                qemu: "qemu-system-aarch64",
                qemu_package: "qemu-system-arm",
                default_host: "arm64-gicv3-vhe",
            },
            Self::Ppc64le => &Names {
                id: "ppc64le",
                debian: "ppc64el",
                kernel: "powerpc",
                rust_target: "powerpc64le-unknown-linux-gnu",
                target_arch: "powerpc64",
                gnu_triple: "powerpc64le-linux-gnu",
                qemu: "qemu-system-ppc64",
                qemu_package: "qemu-system-ppc",
                default_host: "ppc64le-p10",
            },
            Self::Riscv64 => &Names {
                id: "riscv64",
                debian: "riscv64",
                kernel: "riscv",
                rust_target: "riscv64gc-unknown-linux-gnu",
                target_arch: "riscv64",
                gnu_triple: "riscv64-linux-gnu",
                qemu: "qemu-system-riscv64",
                qemu_package: "qemu-system-misc",
                default_host: "riscv64",
            },
            Self::S390x => &Names {
                id: "s390x",
                debian: "s390x",
                kernel: "s390",
                rust_target: "s390x-unknown-linux-gnu",
                target_arch: "s390x",
                gnu_triple: "s390x-linux-gnu",
                qemu: "qemu-system-s390x",
                qemu_package: "qemu-system-misc",
                default_host: "s390x-hercules",
            },
        }
    }

    /// Its name here.
    #[must_use]
    pub const fn id(self) -> &'static str {
        self.names().id
    }

    /// The one of that id.
    #[must_use]
    pub fn of_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.id() == id)
    }

    /// The one that rustc calls so (`CARGO_CFG_TARGET_ARCH`, `std::env::consts::ARCH`).
    #[must_use]
    pub fn of_target_arch(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.names().target_arch == name)
    }

    /// The one that this is compiled for.
    #[must_use]
    pub const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
            Some(Self::Ppc64le)
        } else if cfg!(target_arch = "riscv64") {
            Some(Self::Riscv64)
        } else if cfg!(target_arch = "s390x") {
            Some(Self::S390x)
        } else {
            None
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

/// No architecture has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownArch;

impl fmt::Display for UnknownArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the architectures are {}", IDS[0])?;
        IDS[1..].iter().try_for_each(|id| write!(f, ", {id}"))
    }
}

impl core::error::Error for UnknownArch {}

/// Takes our names and Debian's.
impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(text: &str) -> Result<Self, UnknownArch> {
        let is_meant = |arch: &Self| arch.id() == text || arch.names().debian == text;
        Self::ALL.into_iter().find(is_meant).ok_or(UnknownArch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_our_names_and_those_of_debian() {
        assert_eq!("ppc64le".parse(), Ok(Arch::Ppc64le));
        assert_eq!("arm64".parse(), Ok(Arch::Aarch64));
        assert_eq!("vax".parse::<Arch>(), Err(UnknownArch));
    }

    #[test]
    fn each_name_means_one() {
        for arch in Arch::ALL {
            assert_eq!(Arch::of_id(arch.id()), Some(arch));
            assert_eq!(Arch::of_target_arch(arch.names().target_arch), Some(arch));
        }
    }

    #[test]
    fn this_machine_is_what_rustc_calls_it() {
        extern crate std;
        assert_eq!(Arch::native(), Arch::of_target_arch(std::env::consts::ARCH));
    }
}
