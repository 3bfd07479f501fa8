//! Single instructions on random operands, by the CPU and by KVM's emulator: rows of the runtime's table
//! (`guest/runtime/src/arch/x86_64/insn.rs`).
use crate::prelude::*;
use insn_table::{Access, Form, Gpr, Insn, Operand, State};

/// Where memory operands are, one behind the other.
const MEMORY: u64 = layout::SCRATCH;
/// Bytes for each, and before and behind it.
const PLACE: u64 = 64;
/// Memory operands that a row has at the most.
const NR_PLACES: u64 = 3;
/// Elements of a string instruction at the most, and one more.
const ELEMENTS: u64 = 5;
const ROUNDS: u64 = 8;

type Memory = [u64; (NR_PLACES * PLACE / 8) as usize];

/// A generator of pseudo-random numbers (xorshift): the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Whether a row depends on registers and memory alone.
fn is_plain(insn: &Insn) -> bool {
    use insn_table::faults;
    let system = [faults::PRIVILEGED, faults::OPTIONAL, faults::SEGMENT, faults::X87];
    insn.name != "CPUID" && insn.exceptions != faults::X87_MEMORY && {
        !system.contains(&insn.exceptions) && !insn.exceptions.is_empty()
    }
}

/// Random registers and memory that a row can be run with.
fn random_start(insn: &Insn, random: &mut Random) -> (State, Memory) {
    let gprs = core::array::from_fn(|_| random.next());
    let mut state = State { gprs, ..State::default() };
    let uses_stack = |operand: &Operand| matches!(operand, Operand::Reg { gpr: Gpr::Rsp, .. });
    let has_stack = insn.operands.iter().any(uses_stack);
    state[Gpr::Rsp] = if has_stack { insn_table::stack() - 16 } else { 0 };
    state.rflags =
        (Rflags::from_bits_retain(random.next()) & insn_table::flags::ALL) | Rflags::FIXED;
    if insn.text.starts_with("rep") {
        state[Gpr::Rcx] %= ELEMENTS;
    }
    let mut place = MEMORY + PLACE / 2;
    for operand in insn.operands {
        // A bit's number in a register reaches beyond the operand.
        if let Operand::Reg { gpr, .. } = *operand
            && insn.defined == insn_table::flags::BIT_TEST
        {
            state[gpr] %= 32;
        }
        if let Operand::Mem { base, .. } = *operand {
            state[base] = place;
            place += PLACE;
        }
    }
    (state, core::array::from_fn(|_| random.next()))
}

/// Runs a row once: its trap, registers and memory.
fn run(insn: &Insn, form: Form, start: &(State, Memory)) -> (Option<Trap>, State, Memory) {
    let (mut state, memory) = *start;
    poke(MEMORY, memory);
    if state[Gpr::Rsp] != 0 {
        // What a run leaves there is its own.
        poke(state[Gpr::Rsp], !memory[0]);
    }
    let trap = insn.run(form, &mut state).err();
    (trap, state, peek(MEMORY))
}

/// Whether a row may change byte `at` of the memory.
fn may_change(insn: &Insn, start: &State, at: u64) -> bool {
    insn.operands.iter().any(|operand| match *operand {
        Operand::Mem { bytes, base, access } => {
            let count = if insn.text.starts_with("rep") { start[Gpr::Rcx] } else { 1 };
            let first = start[base];
            access != Access::R
                && (first..first + count * u64::from(bytes)).contains(&(MEMORY + at))
        }
        _ => false,
    })
}

/// The registers that a row may change.
fn written(insn: &Insn) -> u32 {
    let gprs = insn.operands.iter().filter_map(|operand| match *operand {
        Operand::Reg { gpr, access, .. } if access != Access::R => Some(1 << gpr as u32),
        _ => None,
    });
    gprs.sum()
}

#[guest]
fn changes_what_it_names(_: &mut Guest) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for insn in insn::TABLE.iter().filter(|insn| is_plain(insn)) {
        let name = insn.text;
        let (mut memory_kept, mut registers_kept, mut same) = (true, true, true);
        for _ in 0..ROUNDS {
            let start = random_start(insn, &mut random);
            let (trap, state, memory) = run(insn, Form::Native, &start);
            let bytes = |memory: Memory| memory.into_iter().flat_map(u64::to_le_bytes);
            let changed = bytes(memory).zip(bytes(start.1)).map(|(after, before)| after != before);
            memory_kept &= changed.zip(0..).all(|(is, at)| !is || may_change(insn, &start.0, at));
            let may = written(insn) | 1 << Gpr::Rsp as u32;
            let pairs = state.gprs.iter().zip(start.0.gprs);
            registers_kept &=
                pairs.zip(0..).all(|((after, before), n)| may >> n & 1 != 0 || *after == before);
            let again = run(insn, Form::Native, &start);
            let defined = |state: State| state.rflags & insn.defined;
            same &= (again.0, again.1.gprs, again.2) == (trap, state.gprs, memory)
                && defined(again.1) == defined(state);
            let known = trap.is_none_or(|trap| insn.exceptions.contains(&trap.vector));
            check!("an instruction takes no exception but its own", known, "{name}: {trap:x?}");
        }
        check!("{name} changes no memory but its operands", memory_kept);
        check!("{name} changes no register but its operands", registers_kept);
        check!("{name} gives the same result for the same operands", same);
    }
}

#[guest]
fn emulates(_: &mut Guest) {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for insn in insn::TABLE.iter().filter(|insn| is_plain(insn)) {
        let name = insn.text;
        let (mut registers, mut flags, mut memory, mut traps) = (true, true, true, true);
        for _ in 0..ROUNDS {
            let start = random_start(insn, &mut random);
            let native = run(insn, Form::Native, &start);
            let forced = run(insn, Form::Forced, &start);
            let vector = |trap: Option<Trap>| trap.map(|trap| (trap.vector, trap.error));
            traps &= vector(native.0) == vector(forced.0);
            registers &= native.1.gprs == forced.1.gprs;
            flags &= (native.1.rflags ^ forced.1.rflags) & insn.defined == Rflags::empty();
            memory &= native.2 == forced.2;
        }
        check!("KVM emulates the registers of {name}", registers);
        check!("KVM emulates the flags of {name}", flags);
        check!("KVM emulates the memory of {name}", memory);
        check!("KVM emulates the exceptions of {name}", traps);
    }
}

#[host]
mod host {
    use super::*;

    /// Each row changes what its operands say, whatever its operands are.
    #[kvm_test(changes_what_it_names)]
    fn instructions_change_what_they_name(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// KVM's emulator gives what the CPU gives, for the same bytes and operands (SDM vol. 2; APM vol. 3).
    #[kvm_test(emulates, requires(host::FORCED_EMULATION))]
    fn emulator_agrees_with_the_cpu(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
