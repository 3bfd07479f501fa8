//! Single instructions as values: for programs that run where no guest function can, at EL0.
#![expect(unsafe_code, reason = "the address of an instruction")]

use super::sysreg::SysReg;
use crate::memory::peek;

/// Gives the address of instructions, which are branched over.
macro_rules! assembled {
    ($($insn:expr),+) => {{
        let address: u64;
        // SAFETY: nothing of it is executed but a branch.
        unsafe {
            core::arch::asm!(
                "adr {address}, 772f", "b 773f", "772:", $($insn,)+ "773:",
                address = out(reg) address, options(nomem, nostack, preserves_flags)
            );
        }
        address
    }};
}
pub(super) use assembled;

/// An instruction: the assembler's, by its place.
#[derive(Clone, Copy, Debug)]
pub struct Insn {
    code: fn() -> u64,
    nth: u64,
}

impl Insn {
    /// The `nth` instruction of those whose address `code` gives.
    pub(super) const fn new(code: fn() -> u64, nth: u64) -> Self {
        Self { code, nth }
    }

    /// Its encoding.
    pub fn word(self) -> u32 {
        peek((self.code)() + 4 * self.nth)
    }
}

macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident: $insn:literal;)*) => {$(
        $(#[$doc])*
        pub const $name: Insn = {
            fn code() -> u64 {
                assembled!($insn)
            }
            Insn::new(code, 0)
        };
    )*};
}

instructions! {
    /// `NOP`.
    NOP: "nop";
    /// `SVC #0`.
    SVC: "svc #0";
    /// `HVC #0`.
    HVC: "hvc #0";
    /// `SMC #0`.
    SMC: "smc #0";
    /// `BRK #0`.
    BRK: "brk #0";
    /// `UDF #0`.
    UDF: "udf #0";
    /// `WFI`.
    WFI: "wfi";
    /// `ERET`.
    ERET: "eret";
    /// `LDR X0, [X1]`.
    LOAD: "ldr x0, [x1]";
    /// `STR X0, [X1]`.
    STORE: "str x0, [x1]";
    /// `SUBS X0, X0, #1`.
    COUNT_DOWN: "subs x0, x0, #1";
    /// `B.NE` to the instruction before.
    AGAIN: "b.ne .-4";
}

/// `MRS X0, register`.
pub const fn mrs(register: &SysReg) -> Insn {
    register.mrs()
}

/// `MSR register, X0`.
pub const fn msr(register: &SysReg) -> Insn {
    register.msr()
}
