//! The guest-physical map that host and guest agree on. Everything below 4 GiB that is RAM is
//! mapped at its own address.
//!
//! | from | what |
//! |---|---|
//! | 0 | never mapped: catches null |
//! | 0x1000 | translation tables, prebuilt by the host |
//! | 0x2_0000 | free for tests (real-mode code, PV structures) |
//! | 0x10_0000 | one [`VCPU_AREA_SIZE`] area for each of [`DEFAULT_VCPUS`] vCPUs: its context at level 1 |
//! | 0x20_0000 | payload image |
//! | [`NESTED_AREA`] | areas for the contexts of deeper levels |
//! | [`DEFAULT_RAM_SIZE`] | end of the memslot, unless a test asks for more RAM or vCPUs |
//! | same | one [`VCPU_AREA_SIZE`] area for each vCPU behind [`DEFAULT_VCPUS`] |

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

/// Bytes of one context's area; also its alignment, so that a stack pointer gives its context.
pub const VCPU_AREA_SIZE: u64 = 0x1_0000;

/// vCPUs that can run guest functions where the host says no other number.
pub const DEFAULT_VCPUS: u64 = 16;

/// vCPUs that the guest runtime has room for.
pub const MAX_VCPUS: u64 = 64;

/// Link address of the payload.
pub const PAYLOAD: u64 = 0x20_0000;

/// Bytes of the memslot at 0 where the host says no other number; [`crate::StartInfo::ram_size`] is what
/// a VM has.
pub const DEFAULT_RAM_SIZE: u64 = 0x100_0000;

/// Contexts of deeper levels that a VM can have.
pub const NR_NESTED_AREAS: u64 = 16;

/// The first area for a context of a deeper level; the others follow. Laid out as a vCPU's area.
pub const NESTED_AREA: u64 = DEFAULT_RAM_SIZE - NR_NESTED_AREAS * VCPU_AREA_SIZE;

/// Free guest-physical space for tests' own memslots and MMIO: no RAM, identity-mapped.
pub const FREE: u64 = 0x4000_0000;

/// Offsets in a context's area.
pub mod vcpu_area {
    /// The [`crate::Message`].
    pub const MESSAGE: u64 = 0;
    /// The [`crate::StartInfo`].
    pub const START_INFO: u64 = 0x1000;
    /// Architecture tables of this vCPU (x86_64: GDT).
    pub const TABLES: u64 = 0x1100;
    /// More of them (x86_64: TSS).
    pub const TSS: u64 = 0x1200;
    /// Registers that trap entry needs a place for.
    pub const STATE: u64 = 0x1400;
    /// The context's innermost trap handler.
    pub const HANDLERS: u64 = 0x1500;
    /// The root of its translation tables, 0 for the one that the host built.
    pub const ROOT: u64 = 0x1508;
    /// x86_64: the registers of an instruction that is run on its own.
    pub const INSN: u64 = 0x1600;
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

/// Area of the first vCPU behind [`DEFAULT_VCPUS`]; the others follow.
pub const HIGH_VCPU_AREA: u64 = DEFAULT_RAM_SIZE;

/// Address of the area of vCPU `index`.
pub const fn vcpu_area(index: u64) -> u64 {
    if index < DEFAULT_VCPUS {
        VCPU_AREA + index * VCPU_AREA_SIZE
    } else {
        HIGH_VCPU_AREA + (index - DEFAULT_VCPUS) * VCPU_AREA_SIZE
    }
}

/// Address of the `nth` area for contexts of deeper levels.
pub const fn nested_area(nth: u64) -> u64 {
    NESTED_AREA + nth * VCPU_AREA_SIZE
}

/// Address of the area that a context with this stack pointer has. A stack that is empty ends where
/// the next area begins.
pub const fn area_of_stack(stack_pointer: u64) -> u64 {
    stack_pointer.wrapping_sub(1) & !(VCPU_AREA_SIZE - 1)
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
    /// Code selector of 32 bits, over all of memory.
    pub const CODE32: u16 = 0x38;
    /// Code selector of 16 bits, over the first 64 KiB from [`low::TEXT`] on.
    pub const CODE16: u16 = 0x40;
    /// Data selector with the limit of real mode.
    pub const DATA16: u16 = 0x48;
    /// Bytes of the global descriptor table.
    pub const GDT_SIZE: u32 = 0x50;
    /// Bytes of the task state segment, which has no I/O bitmap.
    pub const TSS_SIZE: u32 = 104;
    /// Vectors, and the bytes between two stubs of `trap_stubs`.
    pub const NR_VECTORS: usize = 256;
    /// Bytes of one trap stub.
    pub const STUB_SIZE: u64 = 16;
    /// The interrupt descriptor table, built by the host from `trap_stubs`.
    pub const IDT: u64 = 0x1_f000;

    /// What other modes than 64-bit run on: one segment of real mode, below [`IDT`].
    pub mod low {
        /// Code: a segment of the payload.
        pub const TEXT: u64 = 0x1_0000;
        /// End of the code.
        pub const TEXT_END: u64 = 0x1_a000;
        /// [`TEXT`] as real mode names it.
        pub const SEGMENT: u16 = (TEXT >> 4) as u16;
        /// Interrupt vectors of real mode.
        pub const IVT: u64 = TEXT_END;
        /// The interrupt descriptor table of 32-bit modes.
        pub const IDT: u64 = 0x1_b000;
        /// Registers on the way in and out.
        pub const FRAME: u64 = 0x1_c800;
        /// The page directory of 32-bit paging.
        pub const PAGE_DIRECTORY: u64 = 0x1_d000;
        /// End of a stack of 4 KiB.
        pub const STACK_END: u64 = 0x1_f000;
        /// Bytes between two trap stubs.
        pub const STUB_SIZE: u64 = 16;
    }
}

/// aarch64. RAM is mapped in 4 KiB pages, everything else below 4 GiB in 2 MiB blocks: between RAM and
/// [`FREE`] as Device memory, from there on as Normal memory.
pub mod aarch64 {
    /// Where the doorbell hangs: one 4-byte store of the message's GPA.
    pub const DOORBELL: u64 = 0x0900_0000;
    /// Distributor of the interrupt controller: 64 KiB (4 KiB of a GICv2).
    pub const GICD: u64 = 0x0800_0000;
    /// CPU interface of a GICv2: 8 KiB.
    pub const GICC: u64 = 0x0801_0000;
    /// Interrupt translation service: 128 KiB.
    pub const ITS: u64 = 0x0808_0000;
    /// Redistributors of a GICv3, one [`GICR_STRIDE`] for each vCPU.
    pub const GICR: u64 = 0x080a_0000;
    /// Bytes of one redistributor.
    pub const GICR_STRIDE: u64 = 0x2_0000;
    /// Offset in a vCPU's area: end of the stack on which reports of a broken stack are made.
    pub const FATAL_STACK_END: u64 = 0xb000;
    /// Offset in a vCPU's area: never mapped, below the trap stack.
    pub const TRAP_STACK_GUARD: u64 = 0xb000;
    /// Offset in a vCPU's area: end of the trap stack, SP_EL1 at the start. Its 16 KiB are where bits
    /// 15 and 14 of the offset are set.
    pub const TRAP_STACK_END: u64 = 0x1_0000;

    /// Descriptors of the prebuilt translation tables.
    pub mod descriptor {
        use defs::aarch64::paging::Descriptor;

        /// Normal memory: EL1 reads, writes and executes.
        pub const DEFAULT: Descriptor =
            Descriptor::SH_INNER.union(Descriptor::AF).union(Descriptor::UXN);
        /// Devices.
        pub const DEVICE: Descriptor =
            Descriptor::ATTR_1.union(Descriptor::AF).union(Descriptor::PXN).union(Descriptor::UXN);
    }

    /// System registers of a vCPU that runs guest functions.
    pub mod start {
        use defs::aarch64::regs::{Hcr, Sctlr, Spsr, cpacr, mair, mode, tcr};
        use defs::bits;

        /// MAIR_EL1: attribute 0 is Normal write-back, 1 Device-nGnRnE, 2 Normal non-cacheable.
        pub const MAIR: u64 = mair::at(0, mair::NORMAL_WRITE_BACK)
            | mair::at(1, mair::DEVICE_NGNRNE)
            | mair::at(2, mair::NORMAL_NON_CACHEABLE);
        /// TCR_EL1: TTBR0 with T0SZ 16 and 4 KiB granule, write-back and inner-shareable walks, no
        /// TTBR1, 40 bits of output address.
        pub const TCR: u64 = tcr::T0SZ.of(16)
            | tcr::IRGN0_WRITE_BACK
            | tcr::ORGN0_WRITE_BACK
            | tcr::SH0_INNER
            | tcr::TG0.of(tcr::TG0_4K)
            | tcr::EPD1
            | tcr::IPS.of(tcr::IPS_40_BITS);
        /// SCTLR_EL1.
        pub const SCTLR: u64 =
            bits!(Sctlr::{M | C | SA | SA0 | I | DZE | UCT | NTWI | NTWE | UCI | RES1});
        /// CPACR_EL1.FPEN: floating point and vectors for tests; the payload's own code uses none.
        pub const CPACR: u64 = cpacr::FPEN.of(cpacr::NO_TRAP);
        /// HCR_EL2 of a vCPU that starts at EL2.
        pub const HCR: u64 = bits!(Hcr::{E2H | RW | TGE});
        /// PSTATE: EL1 on SP_EL0, all exceptions masked.
        pub const PSTATE: u64 = Spsr::DAIF.bits() | mode::EL1T;
    }
}

/// Where traps run on architectures that have no stack pointer of their own for them: in a vCPU's area.
pub mod trap_stack {
    /// Offset: never mapped, below the stack.
    pub const GUARD: u64 = 0xb000;
    /// Offset: end of the stack. Its 16 KiB are where bits 15 and 14 of the offset are set.
    pub const END: u64 = 0x1_0000;
    /// The offset of a stack pointer, minus one, shifted right by this, ...
    pub const SHIFT: u32 = 14;
    /// ... is this on the trap stack.
    pub const NUMBER: u64 = 3;
}

/// riscv64. Everything below 4 GiB is mapped at its own address (Sv39): RAM in 4 KiB pages, the rest
/// in 2 MiB pages.
pub mod riscv64 {
    use defs::riscv64::paging::Pte;

    /// SBI extension of the doorbell, in the vendors' range, which KVM leaves to userspace: `ecall`
    /// with the message's GPA in a0.
    pub const DOORBELL_EXTENSION: u64 = 0x0900_4b56;

    /// What the prebuilt page tables give everything: supervisor reads, writes and executes.
    pub const PTE: Pte = Pte::R.union(Pte::W).union(Pte::X).union(Pte::A).union(Pte::D);

    /// CSRs of a vCPU that runs guest functions.
    pub mod start {
        use defs::riscv64::csr::{Sstatus, satp};

        use crate::layout::PAGE_TABLES;

        /// satp: Sv39 on the prebuilt tables.
        pub const SATP: u64 = satp::MODE.of(satp::SV39) | satp::PPN.of(PAGE_TABLES >> 12);
        /// sstatus: floating point in its initial state, for tests; interrupts off.
        pub const SSTATUS: u64 = Sstatus::FS_INITIAL.bits();
    }
}

/// s390x. Guest functions run without translation: addresses are real. There are no guard pages, and
/// null is the low core.
pub mod s390x {
    /// The doorbell: DIAGNOSE with this function, the message's GPA in GPR 2.
    pub const DOORBELL_FUNCTION: u16 = 0x501;
    /// The doorbell's instruction: its first half-word, and the rest.
    pub const DOORBELL: (u16, u16) = (0x8302, DOORBELL_FUNCTION);
    /// Offset in a vCPU's area: its low core of 8 KiB, where prefixing puts real address 0.
    pub const LOW_CORE: u64 = 0xa000;
    /// Bytes below a stack pointer that a caller leaves to the function it calls (ELF ABI supplement).
    pub const STACK_FRAME: u64 = 160;

    /// Places in the low core: the manual's, and ours where it has none.
    pub mod low_core {
        pub use defs::s390x::low_core::*;

        /// Ours: the address of the vCPU's area.
        pub const AREA: u64 = 0x300;
        /// Ours: general registers of a trap on its way in or out.
        pub const REGISTERS: u64 = 0x400;
        /// Ours: its PSW.
        pub const PSW: u64 = 0x480;
    }

    /// Registers of a vCPU that runs guest functions.
    pub mod start {
        use defs::s390x::cr::{CR0_AFP, CR0_INITIAL, CR14_INITIAL};
        use defs::s390x::psw::Psw;

        /// PSW mask: 64-bit addresses, no translation, every interrupt masked.
        pub const PSW_MASK: u64 = Psw::AMODE_64.bits();
        /// CR0: as a reset leaves it, and floating-point registers for tests.
        pub const CR0: u64 = CR0_INITIAL | CR0_AFP;
        /// CR14: as a reset leaves it.
        pub const CR14: u64 = CR14_INITIAL;
    }
}

/// ppc64le. Guest functions run in real mode: there are no guard pages, and null is readable. The
/// interrupt vectors fill the first two pages; no translation tables follow.
pub mod ppc64le {
    /// The doorbell: a hypercall of a number that neither PAPR nor KVM uses, with the message's GPA.
    pub const DOORBELL_HCALL: u64 = 0xfd00;
    /// The first interrupt vector.
    pub const VECTORS: u64 = 0x100;
    /// Behind the last one.
    pub const VECTORS_END: u64 = 0x2000;
    /// The least distance of two.
    pub const VECTOR_STRIDE: u64 = 0x20;
    /// Bytes that a function leaves to the one it calls.
    pub const STACK_FRAME: u64 = 32;

    /// Registers of a vCPU that runs guest functions.
    pub mod start {
        use defs::bits;
        use defs::ppc64le::msr::{Lpcr, Msr};

        /// MSR; floating point and vectors for tests.
        pub const MSR: u64 = bits!(Msr::{SF | VEC | VSX | FP | ME | RI | LE});
        /// LPCR: interrupts are taken in little-endian mode.
        pub const LPCR_ILE: u64 = Lpcr::ILE.bits();
    }
}
