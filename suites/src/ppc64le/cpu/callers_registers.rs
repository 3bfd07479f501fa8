//! KVM_RUN is a system call, and keeps the registers that a system call keeps
//! (Documentation/arch/powerpc/syscall64-abi.rst): a compiler trusts in it.
use crate::prelude::*;

const READY: u64 = 1;
const PAGES: u64 = 256;

/// Each run uses memory that was not there before.
#[guest]
fn stops_again_and_again(g: &mut Guest) {
    for round in 0.. {
        for page in 0..PAGES {
            let gpa = layout::FREE + page * layout::PAGE_SIZE;
            match round % 2 {
                0 => poke(gpa, round),
                _ => drop(peek::<u64>(gpa)),
            }
        }
        g.sync(READY, &[]);
    }
}

#[host]
mod host {
    use super::*;
    use nix::sys::mman::MmapAdvise;
    use vm::arch::callers_registers::{NR_FLOATING, NR_KEPT, kvm_run_with};

    const ROUNDS: u64 = 20;

    /// The floating-point and vector registers that a system call keeps are as before.
    #[kvm_test(stops_again_and_again)]
    fn vector_registers_are_kept(t: &mut OneVcpu) -> TestResult {
        t.vm.add_memory(1, 0, layout::FREE, PAGES * layout::PAGE_SIZE)?;
        t.vcpu.run_until_sync(READY)?;
        for round in 1..=ROUNDS {
            let values = std::array::from_fn(|register| {
                [1, 2].map(|half| round << 32 | (register as u64) << 8 | half)
            });
            t.vm.mapping(0).advise(MmapAdvise::MADV_DONTNEED)?;
            let after = kvm_run_with(&t.vcpu, &values);
            let lost = (0..NR_KEPT).filter(|&register| match register < NR_FLOATING {
                true => after[register][0] != values[register][0],
                false => after[register] != values[register],
            });
            // VS14 to VS31, then VS52 to VS63.
            let lost: Vec<_> =
                lost.map(|r| if r < NR_FLOATING { 14 + r } else { 34 + r }).collect();
            check!("each VSX register is as before KVM_RUN", lost.is_empty(), "lost: VS{lost:?}");
        }
        Ok(())
    }
}
