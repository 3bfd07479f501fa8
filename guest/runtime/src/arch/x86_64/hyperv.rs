//! Hyper-V's interface as a guest sees it: MSRs, the hypercall page and its calling convention
//! (Hyper-V Hypervisor Top-Level Functional Specification).
#![expect(unsafe_code, reason = "calls the hypercall page")]

use core::arch::asm;

use defs::x86::exception::vector;

use super::cpu::wrmsr;
use super::trap::{Trap, TrapFrame};
use crate::handlers::with_handler;

/// MSRs, with the specification's names.
pub mod msr {
    #![expect(missing_docs, reason = "the specification's names")]
    pub const GUEST_OS_ID: u32 = 0x4000_0000;
    pub const HYPERCALL: u32 = 0x4000_0001;
    pub const VP_INDEX: u32 = 0x4000_0002;
    pub const RESET: u32 = 0x4000_0003;
    pub const VP_RUNTIME: u32 = 0x4000_0010;
    pub const TIME_REF_COUNT: u32 = 0x4000_0020;
    pub const REFERENCE_TSC: u32 = 0x4000_0021;
    pub const TSC_FREQUENCY: u32 = 0x4000_0022;
    pub const APIC_FREQUENCY: u32 = 0x4000_0023;
    pub const EOI: u32 = 0x4000_0070;
    pub const ICR: u32 = 0x4000_0071;
    pub const TPR: u32 = 0x4000_0072;
    pub const VP_ASSIST_PAGE: u32 = 0x4000_0073;
    pub const SCONTROL: u32 = 0x4000_0080;
    pub const SVERSION: u32 = 0x4000_0081;
    pub const SIEFP: u32 = 0x4000_0082;
    pub const SIMP: u32 = 0x4000_0083;
    pub const EOM: u32 = 0x4000_0084;
    pub const SINT0: u32 = 0x4000_0090;
    pub const SINT15: u32 = 0x4000_009f;
    pub const STIMER0_CONFIG: u32 = 0x4000_00b0;
    pub const STIMER0_COUNT: u32 = 0x4000_00b1;
    pub const STIMER3_CONFIG: u32 = 0x4000_00b6;
    pub const STIMER3_COUNT: u32 = 0x4000_00b7;
    pub const CRASH_P0: u32 = 0x4000_0100;
    pub const CRASH_P4: u32 = 0x4000_0104;
    pub const CRASH_CTL: u32 = 0x4000_0105;
    pub const REENLIGHTENMENT_CONTROL: u32 = 0x4000_0106;
    pub const TSC_EMULATION_CONTROL: u32 = 0x4000_0107;
    pub const TSC_EMULATION_STATUS: u32 = 0x4000_0108;
    pub const TSC_INVARIANT_CONTROL: u32 = 0x4000_0118;
}

/// Bit 0 of the MSRs that give a page to the hypervisor: the page is on.
pub const ENABLE: u64 = 1;

/// Bits of the MSRs of synthetic interrupt sources, beside the vector in the low eight.
pub mod sint {
    #![expect(missing_docs, reason = "the specification's names")]
    pub const MASKED: u64 = 1 << 16;
    pub const AUTO_EOI: u64 = 1 << 17;
    /// Sources of a virtual processor.
    pub const COUNT: u32 = 16;
}

/// Synthetic timers: bits of HV_X64_MSR_STIMERx_CONFIG beside [`ENABLE`], and what they leave in the
/// message page.
pub mod stimer {
    #![expect(missing_docs, reason = "the specification's names")]
    use super::msr;

    pub const PERIODIC: u64 = 1 << 1;
    pub const LAZY: u64 = 1 << 2;
    pub const AUTO_ENABLE: u64 = 1 << 3;
    pub const VECTOR_SHIFT: u32 = 4;
    pub const DIRECT: u64 = 1 << 12;
    pub const SINT_SHIFT: u32 = 16;
    /// Timers of a virtual processor.
    pub const COUNT: u32 = 4;

    /// The MSR that configures a timer.
    pub const fn config(timer: u32) -> u32 {
        msr::STIMER0_CONFIG + 2 * timer
    }

    /// The MSR of a timer's count.
    pub const fn count(timer: u32) -> u32 {
        msr::STIMER0_COUNT + 2 * timer
    }

    /// Bytes of a slot of the message page.
    pub const SLOT_SIZE: u64 = 256;
    pub const HVMSG_NONE: u32 = 0;
    pub const HVMSG_TIMER_EXPIRED: u32 = 0x8000_0010;
    /// Message flag: another message waits for the slot.
    pub const MESSAGE_PENDING: u8 = 1;
    /// Bytes of a message from its timer number on.
    pub const PAYLOAD_SIZE: u8 = 24;

    /// A slot of the message page with a timer's payload (`HV_MESSAGE`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(C)]
    pub struct Message {
        pub kind: u32,
        pub payload_size: u8,
        pub flags: u8,
        pub reserved: u16,
        pub origin: u64,
        pub timer: u32,
        pub padding: u32,
        pub expiration: u64,
        pub delivery: u64,
    }

    impl Message {
        /// A free slot.
        pub const NONE: Self = Self {
            kind: HVMSG_NONE,
            payload_size: 0,
            flags: 0,
            reserved: 0,
            origin: 0,
            timer: 0,
            padding: 0,
            expiration: 0,
            delivery: 0,
        };
    }
}

/// Hypercall codes.
pub mod code {
    #![expect(missing_docs, reason = "the specification's names")]
    pub const FLUSH_VIRTUAL_ADDRESS_SPACE: u64 = 0x02;
    pub const FLUSH_VIRTUAL_ADDRESS_LIST: u64 = 0x03;
    pub const NOTIFY_LONG_SPIN_WAIT: u64 = 0x08;
    pub const SEND_IPI: u64 = 0x0b;
    pub const FLUSH_VIRTUAL_ADDRESS_SPACE_EX: u64 = 0x13;
    pub const FLUSH_VIRTUAL_ADDRESS_LIST_EX: u64 = 0x14;
    pub const SEND_IPI_EX: u64 = 0x15;
    pub const POST_MESSAGE: u64 = 0x5c;
    pub const SIGNAL_EVENT: u64 = 0x5d;
    pub const POST_DEBUG_DATA: u64 = 0x69;
    pub const RETRIEVE_DEBUG_DATA: u64 = 0x6a;
    pub const RESET_DEBUG_SESSION: u64 = 0x6b;
    pub const EXT_QUERY_CAPABILITIES: u64 = 0x8001;
}

/// Results of hypercalls: the low 16 bits of what they return.
pub mod status {
    #![expect(missing_docs, reason = "the specification's names")]
    pub const SUCCESS: u64 = 0;
    pub const INVALID_HYPERCALL_CODE: u64 = 2;
    pub const INVALID_HYPERCALL_INPUT: u64 = 3;
    pub const INVALID_ALIGNMENT: u64 = 4;
    pub const INVALID_PARAMETER: u64 = 5;
    pub const ACCESS_DENIED: u64 = 6;
    pub const OPERATION_DENIED: u64 = 8;
    pub const INVALID_PORT_ID: u64 = 17;
}

/// The hypercall input value: the call's code and how its input is to be read.
pub mod control {
    #![expect(missing_docs, reason = "the specification's names")]
    pub const FAST: u64 = 1 << 16;
    pub const VARIABLE_HEADER_SHIFT: u64 = 17;
    pub const REP_COUNT_SHIFT: u64 = 32;
    pub const REP_START_SHIFT: u64 = 48;
    /// Bits that must be 0.
    pub const RESERVED: [u64; 6] = [27, 30, 31, 44, 47, 60];
}

/// Words of input that a fast hypercall has room for: RDX, R8 and both halves of XMM0 to XMM5.
pub const FAST_WORDS: usize = 14;

/// Calls through the hypercall page of this partition.
#[derive(Clone, Copy, Debug)]
pub struct Hypercalls {
    page: u64,
}

impl Hypercalls {
    /// Tells the hypervisor of a guest OS, and has it fill the hypercall page at `page`, which must
    /// be mapped at its own address.
    pub fn enable(page: u64, guest_os_id: u64) -> Self {
        wrmsr(msr::GUEST_OS_ID, guest_os_id);
        wrmsr(msr::HYPERCALL, page | ENABLE);
        Self { page }
    }

    /// The page of a partition in which another vCPU has enabled it.
    pub const fn at(page: u64) -> Self {
        Self { page }
    }

    /// A call with `input` in memory at a guest-physical address.
    pub fn slow(self, control: u64, input_gpa: u64, output_gpa: u64) -> Result<u64, Trap> {
        self.call(control, input_gpa, output_gpa, &[0; FAST_WORDS - 2])
    }

    /// A call with its input in registers.
    pub fn fast(self, control: u64, input: &[u64; FAST_WORDS]) -> Result<u64, Trap> {
        let [rdx, r8, xmm @ ..] = input;
        self.call(control | self::control::FAST, *rdx, *r8, xmm)
    }

    fn call(
        self,
        control: u64,
        rdx: u64,
        r8: u64,
        xmm: &[u64; FAST_WORDS - 2],
    ) -> Result<u64, Trap> {
        let mut trap = None;
        // VMCALL and VMMCALL have three bytes; the page's RET is next.
        let on_ud = |frame: &mut TrapFrame| {
            trap = Some(frame.trap());
            frame.rip += 3;
        };
        let mut result: u64 = 0;
        with_handler(vector::UD, on_ud, || {
            // SAFETY: the page holds a hypercall instruction and RET; what Hyper-V lets a hypercall
            // change is named, and nobody keeps anything in the XMM registers.
            unsafe {
                asm!(
                    "movdqu xmm0, [{xmm}]",
                    "movdqu xmm1, [{xmm} + 16]",
                    "movdqu xmm2, [{xmm} + 32]",
                    "movdqu xmm3, [{xmm} + 48]",
                    "movdqu xmm4, [{xmm} + 64]",
                    "movdqu xmm5, [{xmm} + 80]",
                    "call {page}",
                    xmm = in(reg) xmm.as_ptr(), page = in(reg) self.page,
                    inout("rcx") control => _, inout("rdx") rdx => _, inout("r8") r8 => _,
                    inout("rax") result,
                    out("r9") _, out("r10") _, out("r11") _,
                );
            }
        });
        match trap {
            None => Ok(result),
            Some(trap) => Err(trap),
        }
    }
}

/// The reference TSC page (`HV_REFERENCE_TSC_PAGE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the specification names and explains the fields")]
pub struct ReferenceTsc {
    pub sequence: u32,
    pub reserved: u32,
    pub scale: u64,
    pub offset: i64,
}

impl ReferenceTsc {
    /// Reads the page at `gva` by the protocol of its sequence; `None` where that is 0: the page is
    /// not valid, and TIME_REF_COUNT counts.
    pub fn read(gva: u64) -> Option<Self> {
        loop {
            let before: u32 = super::memory::peek(gva);
            if before == 0 {
                return None;
            }
            let page: Self = super::memory::peek(gva);
            let after: u32 = super::memory::peek(gva);
            if before == after {
                return Some(Self { sequence: before, ..page });
            }
            super::cpu::relax();
        }
    }

    /// Reference time (units of 100 ns) at TSC value `tsc`.
    pub fn time_at(&self, tsc: u64) -> u64 {
        let ticks = (u128::from(tsc) * u128::from(self.scale)) >> 64;
        (ticks as u64).wrapping_add_signed(self.offset)
    }
}
