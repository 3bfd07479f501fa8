//! What Debian and the kernel's tree call their kernels of an architecture.

pub use defs::arch::Arch;

/// Debian kernel flavours to take, the best first.
#[must_use]
pub fn kernel_flavours(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 => &["cloud-amd64", "amd64"],
        Arch::Aarch64 => &["cloud-arm64", "arm64"],
        Arch::Ppc64le => &["powerpc64le"],
        Arch::Riscv64 => &["riscv64"],
        Arch::S390x => &["s390x"],
    }
}

/// Where a built kernel tree has its boot image.
#[must_use]
pub fn tree_images(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 => &["arch/x86/boot/bzImage"],
        Arch::Aarch64 => &["arch/arm64/boot/Image", "arch/arm64/boot/Image.gz"],
        Arch::Ppc64le => &["vmlinux", "arch/powerpc/boot/zImage"],
        Arch::Riscv64 => &["arch/riscv/boot/Image", "arch/riscv/boot/Image.gz"],
        Arch::S390x => &["arch/s390/boot/bzImage"],
    }
}
