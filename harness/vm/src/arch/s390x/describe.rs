//! vCPUs and traps in words (Principles of Operation, "Interruptions").

use guest_protocol::layout::s390x::low_core;
use guest_protocol::{NR_ARGS, trap};
use guest_runtime::arch::s390x::trap::vector;

use crate::context::Context;
use crate::payload::Payload;
use crate::{ProgramCounter, Vcpu};

/// Where a vCPU stands, for a signal handler.
pub(crate) const PROGRAM_COUNTER: ProgramCounter =
    ProgramCounter::Run(std::mem::offset_of!(kvm_bindings::kvm_run, psw_addr));

/// KVM gives the registers of one level alone.
pub(crate) fn running(_: &Vcpu) -> Option<Context> {
    None
}

/// Registers and backtrace of a vCPU that stopped in an unexpected way.
pub(crate) fn describe_vcpu(vcpu: &mut Vcpu) -> String {
    let run = vcpu.kvm_run();
    let (mask, pc) = (run.psw_mask, run.psw_addr);
    let regs = *vcpu.sync_regs();
    // The last program interruption is in the low core.
    let word = |offset| vcpu.ram.word(regs.prefix + offset).unwrap_or(0);
    let program = word(low_core::INTERRUPTION_CODES + 8) as u16;
    let old = [word(low_core::PROGRAM_OLD), word(low_core::PROGRAM_OLD + 8)];
    let backtrace =
        Payload::get().map_or(String::new(), |p| p.backtrace(&vcpu.ram, pc, regs.gprs[15]));
    format!(
        "\npsw {mask:016x} {pc:016x} prefix {:x} cr0 {:x} cr1 {:x}\nlast program interruption {program:x}, old psw {:016x} {:016x}{}{backtrace}",
        regs.prefix,
        regs.crs[0],
        regs.crs[1],
        old[0],
        old[1],
        general(&regs.gprs),
    )
}

/// A trap message in words.
pub(crate) fn describe_trap(context: &Context, args: &[u64; NR_ARGS]) -> String {
    let mut gprs = [0; 16];
    gprs.copy_from_slice(&args[trap::REGS..trap::REGS + 16]);
    format!(
        "{}, code {:#x}, on {context}\npsw {:016x} {:016x} translation exception {:x}{}",
        in_words(args[trap::VECTOR] as u8),
        args[trap::CODE],
        args[trap::FLAGS],
        args[trap::PC],
        args[trap::ADDR],
        general(&gprs),
    )
}

fn general(gprs: &[u64; 16]) -> String {
    let mut text = String::new();
    for (n, value) in gprs.iter().enumerate() {
        text.push_str(if n % 4 == 0 { "\n" } else { " " });
        text.push_str(&format!("r{n:<2} {value:016x}"));
    }
    text
}

fn in_words(vector: u8) -> &'static str {
    match vector {
        vector::OPERATION => "operation exception",
        vector::PRIVILEGED_OPERATION => "privileged-operation exception",
        vector::PROTECTION => "protection exception",
        vector::ADDRESSING => "addressing exception",
        vector::SPECIFICATION => "specification exception",
        vector::DATA => "data exception",
        vector::SEGMENT_TRANSLATION => "segment-translation exception",
        vector::PAGE_TRANSLATION => "page-translation exception",
        vector::EXTERNAL => "external interruption",
        vector::SVC => "supervisor call",
        vector::MACHINE_CHECK => "machine check",
        vector::IO => "I/O interruption",
        _ => "program interruption",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_are_told_in_words() {
        assert_eq!(in_words(5), "addressing exception");
        assert_eq!(in_words(0x40), "program interruption");
    }
}
