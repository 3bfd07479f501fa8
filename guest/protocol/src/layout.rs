//! The guest-physical map that host and guest agree on. Everything below 4 GiB that is RAM is
//! mapped at its own address.
//!
//! | from | what |
//! |---|---|
//! | 0 | never mapped: catches null |
//! | 0x1000 | translation tables, prebuilt by the host |
//! | 0x2_0000 | free for tests (real-mode code, PV structures) |
//! | 0x10_0000 | one [`VCPU_AREA_SIZE`] area for each vCPU |
//! | 0x20_0000 | payload image |
//! | [`RAM_SIZE`] | end of the default memslot |

/// Bytes of a small page.
pub const PAGE_SIZE: u64 = 4096;

/// Root of the prebuilt translation tables.
pub const PAGE_TABLES: u64 = 0x1000;

/// Low memory that neither host nor runtime touches: 896 KiB for tests.
pub const SCRATCH: u64 = 0x2_0000;

/// End of [`SCRATCH`].
pub const SCRATCH_END: u64 = 0x10_0000;

/// Area of vCPU 0; the others follow.
pub const VCPU_AREA: u64 = 0x10_0000;

/// Bytes of one vCPU's area; also its alignment, so that a stack pointer tells its vCPU.
pub const VCPU_AREA_SIZE: u64 = 0x1_0000;

/// vCPUs that can run guest functions.
pub const MAX_VCPUS: u64 = 16;

/// Link address of the payload.
pub const PAYLOAD: u64 = 0x20_0000;

/// Bytes of the default memslot, which starts at 0.
pub const RAM_SIZE: u64 = 0x100_0000;

/// Free guest-physical space for tests' own memslots and MMIO: no RAM, identity-mapped.
pub const FREE: u64 = 0x4000_0000;

/// Offsets in a vCPU's area.
pub mod vcpu_area {
    /// The [`crate::Message`].
    pub const MESSAGE: u64 = 0;
    /// The [`crate::StartInfo`].
    pub const START_INFO: u64 = 0x1000;
    /// Architecture tables of this vCPU (x86_64: GDT).
    pub const TABLES: u64 = 0x1100;
    /// More of them (x86_64: TSS).
    pub const TSS: u64 = 0x1200;
    /// Runtime state of this vCPU.
    pub const STATE: u64 = 0x1400;
    /// Never mapped: below the stack.
    pub const GUARD: u64 = 0x2000;
    /// End of the stack (it grows down).
    pub const STACK_END: u64 = 0x9000;
    /// Never mapped: below the trap stacks.
    pub const TRAP_GUARD: u64 = 0x9000;
    /// End of the stack on which every trap and interrupt starts.
    pub const TRAP_STACK_END: u64 = 0xa800;
    /// End of the NMI stack.
    pub const NMI_STACK_END: u64 = 0xc800;
    /// End of the machine-check stack.
    pub const MC_STACK_END: u64 = 0xe000;
    /// End of the double-fault stack, on which reports of a broken stack are made.
    pub const FATAL_STACK_END: u64 = 0x1_0000;
}

/// Address of the area of vCPU `index`.
pub const fn vcpu_area(index: u64) -> u64 {
    VCPU_AREA + index * VCPU_AREA_SIZE
}

/// x86_64.
pub mod x86_64 {
    /// Port of the doorbell: one `out dx, eax` with the message's GPA.
    pub const DOORBELL_PORT: u16 = 0x7c0;
    /// Code selector, ring 0.
    pub const KERNEL_CS: u16 = 0x08;
    /// Data selector, ring 0.
    pub const KERNEL_DS: u16 = 0x10;
    /// Data selector, ring 3.
    pub const USER_DS: u16 = 0x18 | 3;
    /// Code selector, ring 3.
    pub const USER_CS: u16 = 0x20 | 3;
    /// Task state segment (16 bytes).
    pub const TSS_SELECTOR: u16 = 0x28;
    /// Vectors, and the bytes between two stubs of `trap_stubs`.
    pub const NR_VECTORS: usize = 256;
    /// Bytes of one trap stub.
    pub const STUB_SIZE: u64 = 16;
    /// The interrupt descriptor table, built by the host from `trap_stubs`.
    pub const IDT: u64 = 0x1_f000;
}
