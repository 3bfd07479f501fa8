//! Guests in real mode, protected mode with and without paging, and compatibility mode (SDM vol. 3, "Mode
//! Switching"): entered from 64-bit mode, and started there by userspace.
use crate::prelude::*;
use modes::{End, Mode, Regs};

const LMA: u32 = Efer::LMA.bits() as u32;
const CR0_PE: u32 = Cr0::PE.bits() as u32;
const CR0_PG: u32 = Cr0::PG.bits() as u32;
/// Where code stores.
const BUFFER: u64 = layout::SCRATCH;

guest_asm! {
    /// ECX is CR0, EAX EFER, EBX the sum of EBX and EDX; EDX is lost.
    SHOWS_STATE_16, bits16:
    "add ebx, edx",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "mov ecx, cr0",
    "ret",
}

guest_asm! {
    SHOWS_STATE_32, bits32:
    "add ebx, edx",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "mov ecx, cr0",
    "ret",
}

guest_asm! {
    /// Without a prefix an operand has 16 bits, and so has an address.
    STORES_16, bits16:
    "mov es:[di], ax",
    "push ax",
    "pop cx",
    "stc",
    "ret",
}

guest_asm! {
    /// Without a prefix an operand has 32 bits, and so has an address.
    STORES_32, bits32:
    "mov es:[edi], eax",
    "push eax",
    "pop ecx",
    "stc",
    "ret",
}

guest_asm! {
    FAULTS_16, bits16:
    "nop",
    "ud2",
}

guest_asm! {
    FAULTS_32, bits32:
    "nop",
    "ud2",
}

guest_asm! {
    INTERRUPTS_16, bits16:
    "int 0x42",
}

guest_asm! {
    INTERRUPTS_32, bits32:
    "int 0x42",
}

guest_asm! {
    PROTECTION_FAULTS_32, bits32:
    "mov ds, ax",
}

#[guest]
fn calls(g: &mut Guest) {
    let (name, mode) = Mode::ALL[g.arg(0) as usize];
    let is_real = mode == Mode::Real;
    let start = Regs { ebx: 0x1111_0000, edx: 0x2222, ebp: 7, esi: 8, ..Regs::new(mode) };
    let code = if is_real { &SHOWS_STATE_16 } else { &SHOWS_STATE_32 };
    let (regs, end) = modes::call(mode, code, &start);
    check_eq!("code in {name} returns", end, End::Returned);
    check_eq!("code in {name} sees its registers", regs.ebx, 0x1111_2222);
    check_eq!("registers come back from {name} unchanged", [regs.ebp, regs.esi], [7, 8]);
    check_eq!("the stack pointer comes back from {name}", regs.esp, start.esp);
    check_eq!("CR0.PE is set outside real mode", regs.ecx & CR0_PE != 0, !is_real);
    let has_paging = matches!(mode, Mode::Paged | Mode::Compatibility);
    check_eq!("CR0.PG tells whether {name} has paging", regs.ecx & CR0_PG != 0, has_paging);
    let is_long = mode == Mode::Compatibility;
    check_eq!("EFER.LMA is set in compatibility mode alone", regs.eax & LMA != 0, is_long);

    let (segment, code) = if is_real { (0x2000, &STORES_16) } else { (start.es, &STORES_32) };
    let edi = if is_real { 0x9abc_0010 } else { BUFFER as u32 + 0x10 };
    poke(BUFFER + 0x10, 0x5555_5555_5555_5555_u64);
    let stores = Regs { eax: 0x1234_5678, edi, es: segment, ..Regs::new(mode) };
    let (regs, end) = modes::call(mode, code, &stores);
    check_eq!("code in {name} returns behind a store", end, End::Returned);
    let want = if is_real { 0x5555_5555_5555_5678 } else { 0x5555_5555_1234_5678_u64 };
    check_eq!("operands and addresses in {name} have its width", peek::<u64>(BUFFER + 0x10), want);
    let pushed = if is_real { 0x5678 } else { 0x1234_5678 };
    check_eq!("a push in {name} has its width", regs.ecx, pushed);
    check_eq!("flags come back from {name}", regs.eflags & 1, 1);
    check_eq!("64-bit mode goes on behind {name}", rdmsr(msr::IA32_EFER) as u32 & LMA, LMA);
    check_eq!("64-bit mode has its traps behind {name}", ud2_safe().is_err(), true);
}

#[guest]
fn takes_exceptions(g: &mut Guest) {
    let (name, mode) = Mode::ALL[g.arg(0) as usize];
    let is_real = mode == Mode::Real;
    let regs = Regs { ebx: 0x1234, ..Regs::new(mode) };
    let code = if is_real { &FAULTS_16 } else { &FAULTS_32 };
    let (after, end) = modes::call(mode, code, &regs);
    let fault = End::Trap { vector: vector::UD, error: 0, offset: 1 };
    check_eq!("UD2 in {name} is #UD at the instruction", end, fault);
    check_eq!("registers come back from an exception in {name}", after.ebx, 0x1234);
    // The call is still on the stack.
    check_eq!("the stack pointer comes back from an exception", after.esp, regs.esp - 4);
    let code = if is_real { &INTERRUPTS_16 } else { &INTERRUPTS_32 };
    let (_, end) = modes::call(mode, code, &regs);
    let interrupt = End::Trap { vector: 0x42, error: 0, offset: 2 };
    check_eq!("INT in {name} has its vector and goes on behind it", end, interrupt);
    if !is_real {
        let bad = Regs { eax: 0x1230, ..regs };
        let (_, end) = modes::call(mode, &PROTECTION_FAULTS_32, &bad);
        let fault = End::Trap { vector: vector::GP, error: 0x1230, offset: 0 };
        check_eq!("a selector beyond the table is #GP with it in {name}", end, fault);
    }
}

/// Where code that userspace started stops.
const STOP: u16 = 0x9a;

guest_asm! {
    STOPS_16, bits16:
    "mov ecx, cr0",
    "add eax, ebx",
    "mov es:[di], eax",
    "out {stop}, al",
    stop = const STOP,
}

guest_asm! {
    STOPS_32, bits32:
    "mov ecx, cr0",
    "add eax, ebx",
    "mov es:[edi], eax",
    "out {stop}, al",
    stop = const STOP,
}

#[guest]
fn is_not_run(_: &mut Guest) {}

#[host]
mod host {
    use super::*;

    /// A guest function calls code in each mode, and gets its registers.
    #[kvm_test(calls, params = [real: 0, protected: 1, paged: 2, compatibility: 3])]
    fn code_runs_and_returns(t: &mut OneVcpu, mode: u64) -> TestResult {
        t.vcpu.set_args(&[mode]);
        t.vcpu.run_until_done()
    }

    /// Exceptions and interrupts in each mode come through its own table.
    #[kvm_test(takes_exceptions, params = [real: 0, protected: 1, paged: 2, compatibility: 3])]
    fn exceptions_end_the_code(t: &mut OneVcpu, mode: u64) -> TestResult {
        t.vcpu.set_args(&[mode]);
        t.vcpu.run_until_done()
    }

    /// A vCPU that userspace sets into another mode runs there.
    #[kvm_test(is_not_run, params = [real: 0, protected: 1, paged: 2, compatibility: 3])]
    fn vcpu_starts_in_the_mode(t: &mut OneVcpu, mode: u64) -> TestResult {
        let (_, mode) = Mode::ALL[mode as usize];
        let is_real = mode == Mode::Real;
        let regs = t.vcpu.mode_regs(mode);
        let (es, edi) = if is_real { (0x2000, 0x10) } else { (regs.es, BUFFER as u32 + 0x10) };
        let regs = Regs { eax: 0x1200_0000, ebx: 0x3456, es, edi, ..regs };
        let code = if is_real { &STOPS_16 } else { &STOPS_32 };
        t.vcpu.start_in(mode, code, &regs)?;
        t.vcpu.run_until(Exit::io_out(STOP))?;
        t.vcpu.complete_exit()?;
        let after = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        check_eq!("code in the mode has changed its registers", after.rax, 0x1200_3456);
        check_eq!("code in the mode saw CR0.PE", after.rcx as u32 & CR0_PE != 0, !is_real);
        check_eq!(
            "the code's store is in memory",
            t.vm.ram().word(BUFFER + 0x10),
            Some(0x1200_3456)
        );
        Ok(())
    }
}
