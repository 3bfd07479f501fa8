//! Dirty logging of what the emulator writes (api.rst 4.8, KVM_GET_DIRTY_LOG): a page that an emulated
//! instruction writes is in the log like any other.
use crate::prelude::*;
use insn_table::Form;

const BASE: u64 = layout::FREE;

const PAGE: u64 = layout::PAGE_SIZE;

const READY: u64 = 1;

type Access = fn(u64);

/// One a page. CMPXCHG writes in any case: what was there, if that was not what it was to be.
const WRITES: [(&str, Access); 6] = [
    ("LOCK SUB", |gva| _ = insn::LOCK_SUB_M32_R32.forced(gva, 1)),
    ("LOCK XADD", |gva| _ = insn::LOCK_XADD_M32_R32.forced(gva, 1)),
    ("XCHG", |gva| _ = insn::XCHG_M32_R32.forced(gva, 1)),
    ("LOCK CMPXCHG of an equal value", |gva| _ = insn::cmpxchg64(Form::Forced, gva, 0, 1)),
    ("LOCK CMPXCHG of another value", |gva| _ = insn::cmpxchg64(Form::Forced, gva, 7, 1)),
    ("MOV", |gva| _ = insn::MOV_M32_R32.forced(gva, 1)),
];

/// Writes, or else reads, the page that the host half names, until it names none.
#[guest]
fn writes_emulated(g: &mut Guest) {
    loop {
        let [nr, is_write, ..] = g.sync(READY, &[]);
        let Some((_, write)) = WRITES.get(nr as usize) else { return };
        let gva = BASE + nr * PAGE;
        if is_write != 0 { write(gva) } else { _ = insn::MOV_R32_M32.forced(gva, 0) }
    }
}

#[host]
mod host {
    use super::*;
    use vm::bindings::KVM_MEM_LOG_DIRTY_PAGES;

    kvm_tests! { requires(host::FORCED_EMULATION) }

    /// Each emulated write logs its own page, the first time and after the log was read; a read logs none.
    #[kvm_test(writes_emulated)]
    fn emulated_writes_are_logged(t: &mut OneVcpu) -> TestResult {
        const SLOT: u32 = 1;
        let nr_pages = WRITES.len() as u64;
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, nr_pages * PAGE)?;
        t.vcpu.run_until_sync(READY)?;
        let log = || t.vm.dirty_pages(SLOT, nr_pages).ioctl("KVM_GET_DIRTY_LOG");
        log()?;
        for round in 0..2 {
            for (nr, (what, _)) in (0..).zip(WRITES) {
                t.vcpu.answer(&[nr, 0]);
                t.vcpu.run_until_sync(READY)?;
                check_eq!("an emulated read dirties no page (round {round})", log()?, [0_u64; 0]);
                t.vcpu.answer(&[nr, 1]);
                t.vcpu.run_until_sync(READY)?;
                check_eq!("an emulated {what} dirties its page (round {round})", log()?, [nr]);
            }
        }
        t.vcpu.answer(&[u64::MAX]);
        t.vcpu.run_until_done()
    }
}
