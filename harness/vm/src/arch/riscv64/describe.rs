//! vCPUs and traps in words (privileged manual, scause).

use defs::riscv64::cause::{self, exception};
use guest_protocol::{NR_ARGS, trap};

use super::reg;
use crate::context::Context;
use crate::payload::Payload;
use crate::{ProgramCounter, Vcpu};

/// Names of x1 to x31.
const NAMES: [&str; 31] = [
    "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];

/// Where a vCPU stands, for a signal handler.
pub(crate) const PROGRAM_COUNTER: ProgramCounter = ProgramCounter::OneReg(reg::PC);

/// KVM gives the registers of one level alone.
pub(crate) fn running(_: &Vcpu) -> Option<Context> {
    None
}

/// Registers and backtrace of a vCPU that stopped in an unexpected way.
pub(crate) fn describe_vcpu(vcpu: &mut Vcpu) -> String {
    let Ok(pc) = vcpu.get_reg(reg::PC) else {
        return "\nregisters cannot be read".into();
    };
    // What KVM does not give shows as zero; the program counter came.
    let get = |id| vcpu.get_reg(id).unwrap_or(0);
    let x: [u64; 31] = std::array::from_fn(|n| get(reg::x(n as u64 + 1)));
    let backtrace = Payload::get().map_or(String::new(), |p| p.backtrace(&vcpu.ram, pc, x[7]));
    format!(
        "\npc {pc:016x} mode {} sstatus {:x} satp {:x} stvec {:x} sie {:x} sip {:x}\nsepc {:016x} stval {:x} scause {:x}: {}{}{backtrace}",
        if get(reg::MODE) == 0 { "VU" } else { "VS" },
        get(reg::SSTATUS),
        get(reg::SATP),
        get(reg::STVEC),
        get(reg::SIE),
        get(reg::SIP),
        get(reg::SEPC),
        get(reg::STVAL),
        get(reg::SCAUSE),
        cause_in_words(get(reg::SCAUSE)),
        general(&x),
    )
}

/// A trap message in words.
pub(crate) fn describe_trap(context: &Context, args: &[u64; NR_ARGS]) -> String {
    let mut x = [0; 31];
    x.copy_from_slice(&args[trap::REGS..trap::REGS + 31]);
    let overflow =
        [exception::LOAD_PAGE, exception::STORE_PAGE].map(u64::from).contains(&args[trap::VECTOR])
            && context.is_below_stack(args[trap::ADDR]);
    let overflow =
        if overflow { ", in the guard page below the stack: stack overflow" } else { "" };
    format!(
        "{}, on {context}{overflow}\npc {:016x} sstatus {:x} stval {:x}{}",
        cause_in_words(args[trap::CODE]),
        args[trap::PC],
        args[trap::FLAGS],
        args[trap::ADDR],
        general(&x),
    )
}

fn general(x: &[u64; 31]) -> String {
    let mut text = String::new();
    for (n, (name, value)) in NAMES.iter().zip(x).enumerate() {
        text.push_str(if n % 4 == 0 { "\n" } else { " " });
        text.push_str(&format!("{name:<3} {value:016x}"));
    }
    text
}

fn cause_in_words(scause: u64) -> String {
    let code = scause & !cause::INTERRUPT;
    if code != scause {
        return match code as u8 {
            cause::interrupt::SUPERVISOR_SOFTWARE => "software interrupt".into(),
            cause::interrupt::SUPERVISOR_TIMER => "timer interrupt".into(),
            cause::interrupt::SUPERVISOR_EXTERNAL => "external interrupt".into(),
            _ => format!("interrupt {code}"),
        };
    }
    match code as u8 {
        exception::INSTRUCTION_MISALIGNED => "misaligned instruction".into(),
        exception::INSTRUCTION_ACCESS => "instruction access fault".into(),
        exception::ILLEGAL_INSTRUCTION => "illegal instruction".into(),
        exception::BREAKPOINT => "breakpoint".into(),
        exception::LOAD_MISALIGNED => "misaligned load".into(),
        exception::LOAD_ACCESS => "load access fault".into(),
        exception::STORE_MISALIGNED => "misaligned store".into(),
        exception::STORE_ACCESS => "store access fault".into(),
        exception::ECALL_FROM_U => "ecall from U-mode".into(),
        exception::INSTRUCTION_PAGE => "instruction page fault".into(),
        exception::LOAD_PAGE => "load page fault".into(),
        exception::STORE_PAGE => "store page fault".into(),
        _ => format!("exception {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_in_words() {
        assert_eq!(cause_in_words(13), "load page fault");
        assert_eq!(cause_in_words(cause::INTERRUPT | 5), "timer interrupt");
        assert_eq!(cause_in_words(24), "exception 24");
    }
}
