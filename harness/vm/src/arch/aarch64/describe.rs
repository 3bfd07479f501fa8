//! vCPUs and traps in words (ARM ARM, ESR_EL1).

use defs::aarch64::esr::{self, class};
use defs::aarch64::regs::mode;
use defs::aarch64::sysreg::{
    ESR_EL1, FAR_EL1, HCR_EL2, SCTLR_EL1, SysReg, TCR_EL1, TTBR0_EL1, VBAR_EL1,
};
use guest_protocol::{NR_ARGS, trap};
use guest_runtime::arch::aarch64::trap::vector;

use super::core_reg;
use crate::context::Context;
use crate::payload::Payload;
use crate::{ProgramCounter, Vcpu};

/// HCR_EL2.TGE: EL0 is EL2's own.
const HCR_TGE: u64 = 1 << 27;

/// General registers, X0 to X30.
type General = [u64; 31];

/// Where a vCPU stands, for a signal handler.
pub(crate) const PROGRAM_COUNTER: ProgramCounter = ProgramCounter::OneReg(core_reg::PC);

/// The context whose registers KVM gives, of a vCPU that has EL2 and is a hypervisor itself.
pub(crate) fn running(vcpu: &Vcpu) -> Option<Context> {
    let hcr = vcpu.get_reg(HCR_EL2.one_reg()).ok()?;
    let pstate = vcpu.get_reg(core_reg::PSTATE).ok()?;
    let is_el2 = pstate >> 2 & 3 == 2;
    let is_its_user = pstate >> 2 & 3 == 0 && hcr & HCR_TGE != 0;
    if is_el2 || is_its_user {
        return Some(Context::of_vcpu(vcpu.index));
    }
    Some(Context::of_guest(&vcpu.ram, vcpu.index, stack_pointer(vcpu, pstate)))
}

fn stack_pointer(vcpu: &Vcpu, pstate: u64) -> u64 {
    let id = if pstate & 1 == 0 { core_reg::SP_EL0 } else { core_reg::SP_EL1 };
    vcpu.get_reg(id).unwrap_or(0)
}

/// Registers and backtrace of a vCPU that stopped in an unexpected way.
pub(crate) fn describe_vcpu(vcpu: &mut Vcpu) -> String {
    let Ok(pc) = vcpu.get_reg(core_reg::PC) else {
        return "\nregisters cannot be read".into();
    };
    // What KVM does not give shows as zero; the program counter came.
    let reg = |id| vcpu.get_reg(id).unwrap_or(0);
    let sysreg = |register: &SysReg| reg(register.one_reg());
    let x: General = std::array::from_fn(|n| reg(core_reg::x(n as u64)));
    let pstate = reg(core_reg::PSTATE);
    let sp = stack_pointer(vcpu, pstate);
    let syndrome = sysreg(&ESR_EL1);
    let backtrace = Payload::get().map_or(String::new(), |p| p.backtrace(&vcpu.ram, pc, x[29]));
    format!(
        "\npc {pc:016x} pstate {pstate:08x} ({}) sctlr {:x} ttbr0 {:x} tcr {:x} vbar {:x}\nelr {:016x} spsr {:08x} far {:x} esr {syndrome:08x}: {}{}{backtrace}",
        level(pstate),
        sysreg(&SCTLR_EL1),
        sysreg(&TTBR0_EL1),
        sysreg(&TCR_EL1),
        sysreg(&VBAR_EL1),
        reg(core_reg::ELR_EL1),
        reg(core_reg::SPSR_EL1),
        sysreg(&FAR_EL1),
        syndrome_in_words(syndrome),
        general(&x, sp),
    )
}

/// A trap message in words.
pub(crate) fn describe_trap(context: &Context, args: &[u64; NR_ARGS]) -> String {
    let syndrome = args[trap::CODE];
    let what = match args[trap::VECTOR] as u8 {
        vector::IRQ => "IRQ".into(),
        vector::FIQ => "FIQ".into(),
        vector::SERROR => format!("SError, ESR {syndrome:#x}"),
        _ => format!("{}, ESR {syndrome:#x}", syndrome_in_words(syndrome)),
    };
    let mut x: General = [0; 31];
    x.copy_from_slice(&args[trap::REGS..trap::REGS + 31]);
    let overflow = args[trap::VECTOR] == u64::from(vector::DATA_ABORT)
        && context.is_below_stack(args[trap::ADDR]);
    let overflow =
        if overflow { ", in the guard page below the stack: stack overflow" } else { "" };
    format!(
        "{what}, on {context}{overflow}\npc {:016x} pstate {:08x} ({}) far {:x}{}",
        args[trap::PC],
        args[trap::FLAGS],
        level(args[trap::FLAGS]),
        args[trap::ADDR],
        general(&x, args[trap::SP]),
    )
}

/// PSTATE.M with the manual's names.
fn level(pstate: u64) -> &'static str {
    match pstate & mode::MASK {
        mode::EL0T => "EL0t",
        mode::EL1T => "EL1t",
        mode::EL1H => "EL1h",
        mode::EL2T => "EL2t",
        mode::EL2H => "EL2h",
        _ => "AArch32 or reserved",
    }
}

fn general(x: &General, sp: u64) -> String {
    let mut text = format!("\nsp  {sp:016x}");
    for (n, value) in x.iter().enumerate() {
        text.push_str(if n % 4 == 3 { "\n" } else { " " });
        text.push_str(&format!("x{n:<2} {value:016x}"));
    }
    text
}

/// An ESR_EL1 value in words.
fn syndrome_in_words(syndrome: u64) -> String {
    let ec = esr::EC.get(syndrome) as u8;
    let iss = syndrome & esr::ISS;
    match ec {
        class::UNKNOWN => "undefined instruction or unknown reason".into(),
        class::WFX => "trapped WFI or WFE".into(),
        class::FP_ACCESS => "trapped floating-point access".into(),
        class::ILLEGAL_STATE => "illegal execution state".into(),
        class::SVC => format!("SVC #{:#x}", iss & 0xffff),
        class::HVC => format!("HVC #{:#x}", iss & 0xffff),
        class::SMC => format!("SMC #{:#x}", iss & 0xffff),
        class::SYS => system_access(iss),
        class::SVE => "trapped SVE access".into(),
        class::INSTRUCTION_ABORT_LOWER => format!("instruction abort in EL0, {}", fault(iss)),
        class::INSTRUCTION_ABORT => format!("instruction abort, {}", fault(iss)),
        class::PC_ALIGNMENT => "misaligned program counter".into(),
        class::DATA_ABORT_LOWER => {
            format!("data abort in EL0 on a {}, {}", access(iss), fault(iss))
        }
        class::DATA_ABORT => format!("data abort on a {}, {}", access(iss), fault(iss)),
        class::SP_ALIGNMENT => "misaligned stack pointer".into(),
        class::SERROR => "SError".into(),
        class::BREAKPOINT_LOWER | class::BREAKPOINT => "breakpoint".into(),
        class::SOFTWARE_STEP_LOWER | class::SOFTWARE_STEP => "software step".into(),
        class::WATCHPOINT_LOWER | class::WATCHPOINT => "watchpoint".into(),
        class::BRK => format!("BRK #{:#x}", iss & 0xffff),
        other => format!("exception class {other:#04x}, ISS {iss:#x}"),
    }
}

fn access(iss: u64) -> &'static str {
    if iss & esr::WNR != 0 { "write" } else { "read" }
}

/// A fault status code.
fn fault(iss: u64) -> String {
    let code = iss & esr::FSC;
    match code {
        0x00..=0x03 => format!("address size fault at level {}", code & 3),
        0x04..=0x07 => format!("translation fault at level {}", code & 3),
        0x08..=0x0b => format!("access flag fault at level {}", code & 3),
        0x0c..=0x0f => format!("permission fault at level {}", code & 3),
        esr::FSC_EXTERNAL => "synchronous external abort".into(),
        0x14..=0x17 => format!("external abort on a table walk at level {}", code & 3),
        esr::FSC_ALIGNMENT => "alignment fault".into(),
        0x30 => "TLB conflict".into(),
        0x35 => "unsupported exclusive or atomic access".into(),
        _ => format!("fault status {code:#x}"),
    }
}

/// A trapped MRS, MSR or system instruction.
fn system_access(iss: u64) -> String {
    let (op0, op2, op1) = (iss >> 20 & 3, iss >> 17 & 7, iss >> 14 & 7);
    let (crn, rt, crm) = (iss >> 10 & 15, iss >> 5 & 31, iss >> 1 & 15);
    let name = format!("S{op0}_{op1}_C{crn}_C{crm}_{op2}");
    match iss & 1 {
        1 => format!("trapped MRS X{rt}, {name}"),
        _ => format!("trapped MSR {name}, X{rt}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syndromes_are_told_in_words() {
        assert_eq!(
            syndrome_in_words(0x9600_0044),
            "data abort on a write, translation fault at level 0"
        );
        assert_eq!(syndrome_in_words(0xf200_0042), "BRK #0x42");
        assert_eq!(syndrome_in_words(0x6232_d801), "trapped MRS X0, S3_3_C6_C0_1");
    }
}
