//! A guest with translation tables of another granule than KVM's own (ARM ARM D8): its pages of 64 KiB
//! lie over stage 2 pages of 4 KiB.
use crate::prelude::*;
use granule::{PAGE_SIZE, Tables};
use guest_runtime::arch::aarch64::trap::Trap;

/// A translation table page, and KVM's page.
const SMALL: u64 = layout::PAGE_SIZE;
/// Where the guest has its tables.
const TABLES: u64 = 0x3_0000;
const SLOT: u32 = 1;
/// The slot: two of the guest's pages.
const MEMORY: u64 = layout::FREE;
/// Space without memory: an access is userspace's.
const DEVICE: u64 = layout::FREE + 0x10_0000;
/// Where other addresses lie in turn.
const ALIAS: u64 = layout::FREE + 0x100_0000;
const READY: u64 = 1;
const WRITTEN: u64 = 2;

const _: () = assert!(TABLES >= layout::SCRATCH && TABLES + 3 * PAGE_SIZE <= layout::SCRATCH_END);

/// The number that the small page at `gpa` holds.
fn number(gpa: u64) -> u64 {
    0x6464_0000_0000 + gpa / SMALL
}

#[guest]
fn reads_through_large_pages(_: &mut Guest) {
    let small_pages = || (MEMORY..MEMORY + 2 * PAGE_SIZE).step_by(SMALL as usize);
    small_pages().for_each(|page| poke(page + 8, number(page)));
    let tables = Tables::new(TABLES);
    tables.map(ALIAS, MEMORY + PAGE_SIZE, mmu::DEFAULT);
    tables.unmap(ALIAS + PAGE_SIZE);
    tables.map(ALIAS + 2 * PAGE_SIZE, MEMORY, mmu::DEFAULT | Descriptor::AP_READ_ONLY);
    tables.with(|| {
        check_eq!("TCR_EL1.TG0 is the 64 KiB granule", TCR_EL1.read() >> 14 & 3, 1);
        for page in small_pages() {
            check_eq!(
                "each part of a 64 KiB page has its own memory",
                peek::<u64>(page + 8),
                number(page)
            );
        }
        for offset in (0..PAGE_SIZE).step_by(SMALL as usize) {
            let behind = number(MEMORY + PAGE_SIZE + offset);
            check_eq!(
                "an alias has the page's parts in order",
                peek::<u64>(ALIAS + offset + 8),
                behind
            );
        }
        let last = ALIAS + PAGE_SIZE - 8;
        poke(last, 0x77_u64);
        check_eq!(
            "a write by the alias is in the page",
            peek::<u64>(MEMORY + 2 * PAGE_SIZE - 8),
            0x77
        );
        let faults = |name: &str, access: Result<(), Trap>, address: u64, status: u64| {
            check!("{name} faults as the tables say", access.is_err());
            let Err(trap) = access else { return };
            check_eq!("{name} is a data abort", trap.vector, vector::DATA_ABORT);
            check_eq!("{name} reports its address", trap.addr, address);
            check_eq!("{name} reports its fault status", trap.iss() & esr::FSC, status);
        };
        let hole = last + 8;
        let load = read_safe::<u64>(hole).map(drop);
        faults("a load behind the page", load, hole, esr::FSC_TRANSLATION_L3);
        let read_only = ALIAS + 2 * PAGE_SIZE + 5 * SMALL + 8;
        check_eq!(
            "a read-only page can be read",
            peek::<u64>(read_only),
            number(MEMORY + 5 * SMALL)
        );
        let store = write_safe(read_only, 1_u64);
        faults("a store to a read-only page", store, read_only, esr::FSC_PERMISSION_L3);
    });
    check_eq!("a page can be mapped read-only and back", peek::<u64>(MEMORY + 8), number(MEMORY));
}

/// Where the guest writes: parts of its pages.
const PARTS: [u64; 4] = [0, 3, 15, 16];

#[guest]
fn writes_parts(g: &mut Guest) {
    let tables = Tables::new(TABLES);
    tables.map(ALIAS, MEMORY, mmu::DEFAULT);
    tables.map(ALIAS + PAGE_SIZE, MEMORY + PAGE_SIZE, mmu::DEFAULT);
    tables.with(|| {
        g.sync(READY, &[]);
        PARTS.iter().for_each(|part| poke(ALIAS + part * SMALL + 16, 1_u64));
        g.sync(WRITTEN, &[]);
    });
}

/// Places in a page of 64 KiB: each bit of the offset that only such a page has, and the ends.
const PLACES: [u64; 6] = [0, 0x1000, 0x2ff8, 0x4010, 0x8008, 0xfff8];

#[guest]
fn rings_devices(_: &mut Guest) {
    let tables = Tables::new(TABLES);
    tables.map(ALIAS, DEVICE, mmu::DEVICE);
    tables.with(|| {
        for place in PLACES {
            mmio_write(ALIAS + place, place);
            check_eq!(
                "userspace's answer arrives in the guest",
                mmio_read::<u64>(ALIAS + place),
                !place
            );
        }
    });
}

#[host]
mod host {
    use super::*;
    use vm::bindings::KVM_MEM_LOG_DIRTY_PAGES;

    /// A vCPU that has the granule.
    fn vcpu_with_granule(t: &mut OneVcpu) -> TestResult {
        let features = t.vcpu.get_reg(ID_AA64MMFR0_EL1.one_reg()).ioctl("KVM_GET_ONE_REG")?;
        let tgran64 = mmfr0::TGRAN64.get(features);
        require!(tgran64 != mmfr0::TGRAN64_NONE, "the 64 KiB granule (ID_AA64MMFR0_EL1.TGran64)");
        Ok(())
    }

    /// What the guest maps by pages of 64 KiB is what its tables say, whatever KVM's own pages are.
    #[kvm_test(reads_through_large_pages)]
    fn large_pages_translate(t: &mut OneVcpu) -> TestResult {
        vcpu_with_granule(t)?;
        t.vm.add_memory(SLOT, 0, MEMORY, 2 * PAGE_SIZE)?;
        t.vcpu.run_until_done()
    }

    /// The dirty log is of KVM's pages: a write marks one of them, not all of the guest's page (api.rst
    /// 4.8).
    #[kvm_test(writes_parts, requires(host::SMALL_SLOTS))]
    fn dirty_log_has_small_pages(t: &mut OneVcpu) -> TestResult {
        vcpu_with_granule(t)?;
        let pages = 2 * PAGE_SIZE / SMALL;
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, MEMORY, 2 * PAGE_SIZE)?;
        t.vcpu.run_until_sync(READY)?;
        let before = t.vm.dirty_pages(SLOT, pages).ioctl("KVM_GET_DIRTY_LOG")?;
        check_eq!("the guest's tables alone dirty nothing", before, [0_u64; 0]);
        t.vcpu.run_until_sync(WRITTEN)?;
        let dirty = t.vm.dirty_pages(SLOT, pages).ioctl("KVM_GET_DIRTY_LOG")?;
        check_eq!("the log has exactly the written parts", dirty, PARTS);
        t.vcpu.run_until_done()
    }

    /// The address of an MMIO exit is that of the access, whichever part of the guest's page it is in
    /// (HPFAR_EL2 and FAR_EL2).
    #[kvm_test(rings_devices)]
    fn mmio_exits_tell_the_address(t: &mut OneVcpu) -> TestResult {
        vcpu_with_granule(t)?;
        for place in PLACES {
            let mut stop = t.vcpu.run_until(Exit::mmio_write(DEVICE + place))?;
            check_eq!("a store's data arrives in userspace", stop.data(), place.to_le_bytes());
            t.vcpu.run_until(Exit::mmio_read(DEVICE + place))?.set_data(&(!place).to_le_bytes());
        }
        t.vcpu.run_until_done()
    }
}
