//! vCPUs and traps in words (Power ISA, Book III, "Interrupts").

use defs::ppc64le::interrupt::vector;
use guest_protocol::{NR_ARGS, trap};

use crate::context::Context;
use crate::payload::Payload;
use crate::{ProgramCounter, Vcpu, request};

/// Where a vCPU stands, for a signal handler.
pub(crate) const PROGRAM_COUNTER: ProgramCounter = ProgramCounter::Regs(
    request::ior::<kvm_bindings::kvm_regs>(0x81),
    std::mem::offset_of!(kvm_bindings::kvm_regs, pc),
);

/// KVM gives the registers of one level alone.
pub(crate) fn running(_: &Vcpu) -> Option<Context> {
    None
}

/// Registers and backtrace of a vCPU that stopped in an unexpected way.
pub(crate) fn describe_vcpu(vcpu: &mut Vcpu) -> String {
    let Ok(regs) = vcpu.fd().get_regs() else {
        return "\nregisters cannot be read".into();
    };
    let backtrace =
        Payload::get().map_or(String::new(), |p| p.backtrace(&vcpu.ram, regs.pc, regs.gpr[1]));
    format!(
        "\npc {:016x} msr {:x} lr {:x} ctr {:x} cr {:x} xer {:x} srr0 {:x} srr1 {:x}{}{backtrace}",
        regs.pc,
        regs.msr,
        regs.lr,
        regs.ctr,
        regs.cr,
        regs.xer,
        regs.srr0,
        regs.srr1,
        general(&regs.gpr),
    )
}

/// A trap message in words.
pub(crate) fn describe_trap(context: &Context, args: &[u64; NR_ARGS]) -> String {
    let mut gpr = [0; 32];
    gpr.copy_from_slice(&args[trap::REGS..trap::REGS + 32]);
    format!(
        "{}, on {context}\npc {:016x} srr1 {:x} dar {:x} dsisr {:x}{}",
        in_words(args[trap::VECTOR]),
        args[trap::PC],
        args[trap::FLAGS],
        args[trap::ADDR],
        args[trap::CODE],
        general(&gpr),
    )
}

fn general(gpr: &[u64; 32]) -> String {
    let mut text = String::new();
    for (n, value) in gpr.iter().enumerate() {
        text.push_str(if n % 4 == 0 { "\n" } else { " " });
        text.push_str(&format!("r{n:<2} {value:016x}"));
    }
    text
}

fn in_words(vector: u64) -> String {
    let name = match vector {
        vector::SYSTEM_RESET => "system reset",
        vector::MACHINE_CHECK => "machine check",
        vector::DATA_STORAGE => "data storage interrupt",
        vector::DATA_SEGMENT => "data segment interrupt",
        vector::INSTRUCTION_STORAGE => "instruction storage interrupt",
        vector::INSTRUCTION_SEGMENT => "instruction segment interrupt",
        vector::EXTERNAL => "external interrupt",
        vector::ALIGNMENT => "alignment interrupt",
        vector::PROGRAM => "program interrupt",
        vector::FP_UNAVAILABLE => "floating-point unavailable interrupt",
        vector::DECREMENTER => "decrementer interrupt",
        vector::SYSTEM_CALL => "system call",
        vector::TRACE => "trace interrupt",
        vector::FACILITY_UNAVAILABLE => "facility unavailable interrupt",
        _ => "interrupt",
    };
    format!("{name} ({vector:#x})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_told_in_words() {
        assert_eq!(in_words(vector::DATA_STORAGE), "data storage interrupt (0x300)");
        assert_eq!(in_words(0x1000), "interrupt (0x1000)");
    }
}
