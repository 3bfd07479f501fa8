//! Dirty logging of what the guest's own stores do not do: writes by KVM's instruction emulator, and
//! by KVM into paravirtual structures (api.rst 4.8; Documentation/virt/kvm/x86/msr.rst).
use crate::prelude::*;
use guest_runtime::arch::x86_64::state::{ins_string, move_string};
use kvm_pv::{
    Features, KVM_MSR_ENABLED, MSR_KVM_STEAL_TIME, MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK_NEW,
};

const PAGE: u64 = layout::PAGE_SIZE;
const BASE: u64 = layout::FREE;
const NR_PAGES: u64 = 16;
/// No RAM: accesses are emulated.
const MMIO: u64 = BASE + 0x10_0000;
const PORT: u16 = 0x85;

#[guest]
fn straddles_pages(g: &mut Guest) {
    let edge = BASE + 4 * PAGE;
    (0..NR_PAGES).for_each(|page| poke(BASE + page * PAGE, 1_u8));
    g.sync(1, &[]);
    check_eq!(
        "a 16-bit store that straddles two pages is done",
        write_safe(edge - 1, 0x1122_u16),
        Ok(())
    );
    g.sync(2, &[]);
    check_eq!(
        "a 32-bit store that straddles two pages is done",
        write_safe(edge - 3, 1_u32),
        Ok(())
    );
    g.sync(3, &[]);
    check_eq!(
        "a 64-bit store that straddles two pages is done",
        write_safe(edge - 1, 1_u64),
        Ok(())
    );
    g.sync(4, &[]);
    check_eq!(
        "a load that straddles two pages is done",
        read_safe::<u64>(edge - 4),
        Ok(0x0100_0100)
    );
    g.sync(5, &[]);
}

#[guest]
fn moves_from_mmio(_: &mut Guest) {
    move_string(BASE + 2 * PAGE, MMIO, 8);
    move_string(BASE + 6 * PAGE - 4, MMIO, 8);
}

#[guest]
fn reads_a_port_string(_: &mut Guest) {
    ins_string(PORT, BASE + 3 * PAGE, 4);
    ins_string(PORT, BASE + 9 * PAGE - 2, 4);
}

/// The structure's page, at an offset that every structure's alignment allows.
const STRUCTURE_PAGE: u64 = 11;
const STRUCTURE: u64 = BASE + STRUCTURE_PAGE * PAGE + 0x40;

#[guest]
fn enables_a_structure(g: &mut Guest) {
    let wanted = Features::from_bits_retain(g.arg(1) as u32);
    g.sync(1, &[pv_features().contains(wanted).into()]);
    check_eq!(
        "the guest may enable the structure",
        wrmsr_safe(g.arg(0) as u32, STRUCTURE | g.arg(2)),
        Ok(())
    );
    g.sync(2, &[]);
    g.sync(3, &[]);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::KVM_MEM_LOG_DIRTY_PAGES;

    kvm_tests! {
        sees(
            moved: "reads the dirty log, which a new VM does not have",
            shuffled: "reads the dirty log, which a new memslot does not have",
            logged: "reads the dirty log",
        ),
    }

    const SLOT: u32 = 1;
    const NONE: [u64; 0] = [];

    fn dirty(t: &OneVcpu) -> TestResult<Vec<u64>> {
        t.vm.dirty_pages(SLOT, NR_PAGES).ioctl("KVM_GET_DIRTY_LOG")
    }

    fn add_slot(t: &mut OneVcpu) -> TestResult {
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, NR_PAGES * PAGE).map(drop)
    }

    /// A store that straddles two pages dirties both.
    #[kvm_test(straddles_pages)]
    fn straddling_stores_dirty_both_pages(t: &mut OneVcpu) -> TestResult {
        add_slot(t)?;
        t.vcpu.run_until_sync(1)?;
        dirty(t)?;
        for (stage, what) in [(2, "16 bits"), (3, "32 bits"), (4, "64 bits")] {
            t.vcpu.run_until_sync(stage)?;
            check_eq!("a straddling store of {what} dirties both pages", dirty(t)?, [3, 4]);
        }
        t.vcpu.run_until_sync(5)?;
        check_eq!("a straddling load dirties neither page", dirty(t)?, NONE);
        t.vcpu.run_until_done()
    }

    /// Bytes that the emulator moves from MMIO to RAM dirty the pages where they land.
    #[kvm_test(moves_from_mmio)]
    fn emulated_moves_from_mmio_are_logged(t: &mut OneVcpu) -> TestResult {
        add_slot(t)?;
        let mut reads = 0_u8;
        while let Some(mut stop) = t.vcpu.run_until_exit()? {
            let Exit::Mmio { is_write: false, len, .. } = stop.exit() else {
                fail!("{:x?} instead of an MMIO read", stop.exit());
            };
            stop.set_data(&vec![0x77; len as usize]);
            reads += 1;
        }
        check!("the guest's moves were emulated", reads > 0);
        check_eq!("the pages where the bytes landed are dirty", dirty(t)?, [2, 5, 6]);
        let landed = |offset| t.vm.mapping(0).read_u64(offset as usize);
        let bytes = u64::from_ne_bytes([0x77; 8]);
        check_eq!(
            "moved bytes arrive in both pages",
            [landed(2 * PAGE), landed(6 * PAGE - 4)],
            [bytes; 2]
        );
        Ok(())
    }

    /// Bytes that INS reads from a port dirty the pages where they land.
    #[kvm_test(reads_a_port_string)]
    fn port_strings_are_logged(t: &mut OneVcpu) -> TestResult {
        add_slot(t)?;
        while let Some(mut stop) = t.vcpu.run_until_exit()? {
            let Exit::Io { direction: IoDirection::In, port: PORT, size, count } = stop.exit()
            else {
                fail!("{:x?} instead of a read of the port", stop.exit());
            };
            stop.set_data(&vec![0x66; usize::from(size) * count as usize]);
        }
        check_eq!("the pages where the bytes landed are dirty", dirty(t)?, [3, 8, 9]);
        let landed = t.vm.mapping(0).read_u64((3 * PAGE) as usize) as u32;
        check_eq!("string input arrives in both pages", landed, 0x6666_6666);
        Ok(())
    }

    /// KVM's own writes to a structure that the guest enabled are in the log.
    #[kvm_test(enables_a_structure, params = [
    wall_clock: (MSR_KVM_WALL_CLOCK_NEW, Features::CLOCKSOURCE2, 0),
    kvmclock: (MSR_KVM_SYSTEM_TIME_NEW, Features::CLOCKSOURCE2, KVM_MSR_ENABLED),
    steal_time: (MSR_KVM_STEAL_TIME, Features::STEAL_TIME, KVM_MSR_ENABLED),
])]
    fn structures_that_kvm_writes_are_logged(
        t: &mut OneVcpu,
        (msr, feature, enable): (u32, Features, u64),
    ) -> TestResult {
        add_slot(t)?;
        t.vcpu.set_args(&[msr.into(), feature.bits().into(), enable]);
        let [offered, ..] = t.vcpu.run_until_sync(1)?;
        require!(offered == 1, "KVM CPUID feature bit {}", feature.bits().trailing_zeros());
        check_eq!("nothing is dirty before the structure is enabled", dirty(t)?, NONE);
        t.vcpu.run_until_sync(2)?;
        t.vcpu.run_until_sync(3)?;
        let page = t.vm.mapping(0);
        let start = (STRUCTURE_PAGE * PAGE) as usize + 0x40;
        let written = (0..64).step_by(8).any(|offset| page.read_u64(start + offset) != 0);
        check!("KVM has written the structure", written);
        check_eq!("exactly the structure's page is dirty", dirty(t)?, [STRUCTURE_PAGE]);
        t.vcpu.run_until_done()
    }
}
