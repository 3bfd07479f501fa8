//! What KVM_SET_USER_MEMORY_REGION refuses (api.rst 4.35), and that a refused call changes nothing.
use crate::prelude::*;

use crate::common::memory::memslots::serve;

#[guest]
fn accesses(g: &mut Guest) {
    serve(g);
}

#[host]
mod host {
    use super::*;
    use crate::common::memory::memslots::{Access, READY, pages, read};

    kvm_tests! { requires(host::SMALL_SLOTS), sees(slots: "uses every memslot there is") }

    const SLOT: u32 = 1;
    const OTHER: u32 = 2;
    const PAGE: u64 = layout::PAGE_SIZE;
    const GPA: u64 = layout::FREE;
    const CONTENT: u64 = 0x0123_4567_89ab_cdef;
    /// Most pages of one slot (`KVM_MEM_MAX_NR_PAGES`).
    const MAX_PAGES: u64 = (1 << 31) - 1;

    /// Deletes a slot; EINVAL says that there was none.
    fn delete(vm: &Vm, slot: u32) -> Result<(), Errno> {
        vm.set_region(slot, 0, 0, 0, 0)
    }

    /// api.rst 4.35: slots of one address space may not overlap (EEXIST), in whatever way; neighbours may
    /// touch. The slot that was there stays, the refused one is not there.
    #[kvm_test(accesses)]
    fn overlapping_slots_are_eexist(t: &mut OneVcpu) -> TestResult {
        let OneVcpu { vcpu, vm } = t;
        let (memory, wide) = (pages(4, CONTENT)?, pages(8, 0)?);
        let at = |page: u64| GPA + page * PAGE;
        vm.set_region(SLOT, 0, at(4), 4 * PAGE, memory.hva())
            .ioctl("KVM_SET_USER_MEMORY_REGION")?;
        vcpu.run_until_sync(READY)?;
        let overlaps = [
            ("the same range", 4, 8),
            ("its first page", 4, 5),
            ("its middle", 5, 7),
            ("its last page", 7, 8),
            ("across its start", 3, 5),
            ("across its end", 7, 9),
            ("all around it", 3, 9),
            ("from its start beyond its end", 4, 9),
            ("from before its start to its end", 3, 8),
        ];
        for (what, start, end) in overlaps {
            let got = vm.set_region(OTHER, 0, at(start), (end - start) * PAGE, wide.hva());
            check_eq!("a slot over {what} is EEXIST", got, Err(Errno::EEXIST));
            check_eq!(
                "a slot over {what}, refused, is not added",
                delete(vm, OTHER),
                Err(Errno::EINVAL)
            );
            check_eq!(
                "a slot over {what}, refused, leaves the old slot",
                read(vcpu, at(4))?,
                Access::Value(CONTENT)
            );
            check_eq!(
                "a slot over {what}, refused, leaves the old slot's end",
                read(vcpu, at(7))?,
                Access::Value(CONTENT + 3)
            );
        }
        for (what, page) in [("before", 3), ("behind", 8)] {
            let got = vm.set_region(OTHER, 0, at(page), PAGE, wide.hva());
            check_eq!("a slot right {what} another is accepted", got, Ok(()));
            check_eq!(
                "a slot right {what} another has its memory",
                read(vcpu, at(page))?,
                Access::Value(0)
            );
            delete(vm, OTHER).ioctl("KVM_SET_USER_MEMORY_REGION (delete)")?;
        }

        let moving = pages(2, !CONTENT)?;
        vm.set_region(OTHER, 0, at(12), 2 * PAGE, moving.hva())
            .ioctl("KVM_SET_USER_MEMORY_REGION")?;
        for (what, page) in [("its start", 3), ("itself", 5), ("its end", 7)] {
            let got = vm.set_region(OTHER, 0, at(page), 2 * PAGE, moving.hva());
            check_eq!("a move onto {what} is EEXIST", got, Err(Errno::EEXIST));
            check_eq!(
                "a move onto {what} leaves the moved slot",
                read(vcpu, at(12))?,
                Access::Value(!CONTENT)
            );
            check_eq!(
                "a move onto {what} leaves the other slot",
                read(vcpu, at(4))?,
                Access::Value(CONTENT)
            );
        }
        Ok(())
    }

    /// api.rst 4.35: addresses and sizes are whole pages, ranges do not wrap, `userspace_addr` is this
    /// process's, a slot has fewer than 2^31 pages: anything else is EINVAL, and no slot comes to be.
    #[kvm_test]
    fn misplaced_slots_are_einval(t: &mut OneVm) -> TestResult {
        /// Low enough that the largest sizes still end within a process's addresses.
        const LOW_HVA: u64 = 1 << 32;
        const LAST_PAGE: u64 = 0_u64.wrapping_sub(PAGE);
        let vm = &t.vm;
        let memory = pages(2, CONTENT)?;
        let hva = memory.hva();
        let bad = [
            ("GPA + 1", GPA + 1, PAGE, hva),
            ("GPA + half a page", GPA + PAGE / 2, PAGE, hva),
            ("GPA - 1", GPA - 1, PAGE, hva),
            ("size 1", GPA, 1, hva),
            ("size of a page - 1", GPA, PAGE - 1, hva),
            ("size of a page + 1", GPA, PAGE + 1, hva),
            ("size of a page and a half", GPA, PAGE + PAGE / 2, hva),
            ("userspace_addr + 1", GPA, PAGE, hva + 1),
            ("userspace_addr + half a page", GPA, PAGE, hva + PAGE / 2),
            ("a range that ends at 2^64", LAST_PAGE, PAGE, hva),
            ("a range that wraps", LAST_PAGE, 2 * PAGE, hva),
            ("2^31 pages", GPA, (MAX_PAGES + 1) * PAGE, LOW_HVA),
            ("2^63 bytes", GPA, 1 << 63, LOW_HVA),
            ("2^64 bytes less a page", GPA, LAST_PAGE, LOW_HVA),
            ("userspace_addr in the kernel's half", GPA, PAGE, 1 << 63),
            ("userspace_addr in the kernel's image", GPA, PAGE, 0xffff_ffff_8000_0000),
            ("userspace_addr that wraps", GPA, 2 * PAGE, LAST_PAGE),
            ("userspace_addr that ends at 2^64", GPA, PAGE, LAST_PAGE),
        ];
        for (what, gpa, size, hva) in bad {
            check_eq!(
                "a region with {what} is EINVAL",
                vm.set_region(OTHER, 0, gpa, size, hva),
                Err(Errno::EINVAL)
            );
            check_eq!("a region with {what} makes no slot", delete(vm, OTHER), Err(Errno::EINVAL));
        }
        check_eq!(
            "a region of one page in the same place is accepted",
            vm.set_region(OTHER, 0, GPA, PAGE, hva),
            Ok(())
        );
        Ok(())
    }

    /// api.rst 4.35: KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY are the only flags; ids go up to
    /// KVM_CAP_NR_MEMSLOTS - 1, address spaces up to KVM_CAP_MULTI_ADDRESS_SPACE - 1. The rest is EINVAL.
    #[kvm_test]
    fn unknown_flags_and_slot_ids_are_einval(t: &mut OneVm) -> TestResult {
        const FLAGS: u32 = bindings::KVM_MEM_LOG_DIRTY_PAGES | bindings::KVM_MEM_READONLY;
        let vm = &t.vm;
        let memory = pages(1, CONTENT)?;
        let set = |slot, flags| vm.set_region(slot, flags, GPA, PAGE, memory.hva());
        for bit in (0..32).filter(|bit| FLAGS >> bit & 1 == 0) {
            let got = set(OTHER, 1 << bit);
            check!("an unknown flag is EINVAL", got == Err(Errno::EINVAL), "bit {bit}: {got:?}");
        }
        check_eq!("unknown flags make no slot", delete(vm, OTHER), Err(Errno::EINVAL));

        let slots = vm.check_extension(bindings::KVM_CAP_NR_MEMSLOTS) as u32;
        let spaces = vm.check_extension(bindings::KVM_CAP_MULTI_ADDRESS_SPACE).max(1) as u32;
        let bad = [
            ("KVM_CAP_NR_MEMSLOTS", slots),
            ("2^16 - 1", 0xffff),
            ("1 of the first unknown address space", spaces << 16 | 1),
            ("1 of address space 2^15", 1 << 31 | 1),
            ("2^31", 1 << 31),
            ("2^32 - 1", u32::MAX),
        ];
        for (what, slot) in bad {
            check_eq!("slot {what} is EINVAL", set(slot, 0), Err(Errno::EINVAL));
            check_eq!("deleting slot {what} is EINVAL", delete(vm, slot), Err(Errno::EINVAL));
        }
        check_eq!("the last slot number is accepted", set(slots - 1, 0), Ok(()));
        check_eq!("the last slot number can be deleted", delete(vm, slots - 1), Ok(()));
        Ok(())
    }

    /// api.rst 4.35: address spaces are apart: the same range, and the same id, can be used in each.
    #[kvm_test(requires(cap::MULTI_ADDRESS_SPACE))]
    fn address_spaces_do_not_overlap(t: &mut OneVm) -> TestResult {
        let vm = &t.vm;
        let memory = pages(1, CONTENT)?;
        let spaces = vm.check_extension(bindings::KVM_CAP_MULTI_ADDRESS_SPACE) as u32;
        let set = |slot| vm.set_region(slot, 0, GPA, PAGE, memory.hva());
        for space in 0..spaces {
            check_eq!(
                "the same range is taken in every address space",
                set(space << 16 | SLOT),
                Ok(())
            );
            let got = set(space << 16 | OTHER);
            check_eq!(
                "the same range twice in one address space is EEXIST",
                got,
                Err(Errno::EEXIST)
            );
        }
        for space in 0..spaces {
            check_eq!(
                "a slot is deleted in its own address space only",
                delete(vm, space << 16 | SLOT),
                Ok(())
            );
        }
        Ok(())
    }

    /// api.rst 4.35: an existing slot can be moved and its dirty logging switched. Its size, its memory
    /// and KVM_MEM_READONLY cannot change (EINVAL); deleting a slot that is not there is EINVAL.
    #[kvm_test(accesses)]
    fn existing_slot_keeps_its_size_and_memory(t: &mut OneVcpu) -> TestResult {
        const LOG: u32 = bindings::KVM_MEM_LOG_DIRTY_PAGES;
        const READONLY: u32 = bindings::KVM_MEM_READONLY;
        let OneVcpu { vcpu, vm } = t;
        let (memory, other) = (pages(4, CONTENT)?, pages(4, 0)?);
        let hva = memory.hva();
        check_eq!("deleting a slot that never was is EINVAL", delete(vm, SLOT), Err(Errno::EINVAL));
        vm.set_region(SLOT, 0, GPA, 2 * PAGE, hva).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        vcpu.run_until_sync(READY)?;
        let bad = [
            ("a smaller size", 0, GPA, PAGE, hva),
            ("a larger size", 0, GPA, 3 * PAGE, hva),
            ("other memory", 0, GPA, 2 * PAGE, other.hva()),
            ("its memory a page further", 0, GPA, 2 * PAGE, hva + PAGE),
            ("KVM_MEM_READONLY", READONLY, GPA, 2 * PAGE, hva),
            ("another size at another place", 0, GPA + 8 * PAGE, PAGE, hva),
            ("a place that is not aligned", 0, GPA + 1, 2 * PAGE, hva),
        ];
        for (what, flags, gpa, size, hva) in bad {
            let got = vm.set_region(SLOT, flags, gpa, size, hva);
            check_eq!("an existing slot cannot change: {what} is EINVAL", got, Err(Errno::EINVAL));
            check_eq!(
                "a refused change leaves the slot: {what}",
                read(vcpu, GPA)?,
                Access::Value(CONTENT)
            );
            check_eq!(
                "a refused change leaves the slot's end: {what}",
                read(vcpu, GPA + PAGE)?,
                Access::Value(CONTENT + 1)
            );
            check_eq!(
                "a refused change leaves what is behind the slot: {what}",
                read(vcpu, GPA + 2 * PAGE)?,
                Access::MmioRead
            );
        }
        let good = [
            ("nothing new", 0),
            ("dirty logging", LOG),
            ("dirty logging again", LOG),
            ("no dirty logging", 0),
        ];
        for (what, flags) in good {
            check_eq!(
                "an existing slot can change: {what} is accepted",
                vm.set_region(SLOT, flags, GPA, 2 * PAGE, hva),
                Ok(())
            );
            check_eq!(
                "an accepted change leaves the slot's content: {what}",
                read(vcpu, GPA)?,
                Access::Value(CONTENT)
            );
        }
        check_eq!("an existing slot can be deleted", delete(vm, SLOT), Ok(()));
        check_eq!("deleting a slot twice is EINVAL", delete(vm, SLOT), Err(Errno::EINVAL));
        check_eq!("a deleted slot's memory is unreachable", read(vcpu, GPA)?, Access::MmioRead);
        let bigger = vm.set_region(SLOT, 0, GPA, 4 * PAGE, hva);
        check_eq!("a deleted slot can be added with another size", bigger, Ok(()));
        check_eq!(
            "a slot added with another size has all its memory",
            read(vcpu, GPA + 3 * PAGE)?,
            Access::Value(CONTENT + 3)
        );
        Ok(())
    }

    /// api.rst 4.35: each of many slots, up to the last id, holds its own memory.
    #[kvm_test(accesses, requires(cap::NR_MEMSLOTS))]
    fn many_slots_hold_their_own_memory(t: &mut OneVcpu) -> TestResult {
        const MANY: u64 = 256;
        let slots = t.vm.check_extension(bindings::KVM_CAP_NR_MEMSLOTS) as u64;
        let first = MANY.min(slots / 2);
        fill_slots(t, (1..first).chain([slots - 1]).collect())
    }

    /// api.rst 4.35: all KVM_CAP_NR_MEMSLOTS slots can be used at a time. (Seconds: each slot waits for
    /// every vCPU to let go of the old set.)
    #[kvm_test(accesses, requires(cap::NR_MEMSLOTS), groups("nodefault"))]
    fn all_slots_hold_their_own_memory(t: &mut OneVcpu) -> TestResult {
        let slots = t.vm.check_extension(bindings::KVM_CAP_NR_MEMSLOTS) as u64;
        fill_slots(t, (1..slots).collect())
    }

    /// Makes these slots of a page each, and lets the guest read some.
    fn fill_slots(t: &mut OneVcpu, slots: Vec<u64>) -> TestResult {
        /// The guest reads at most about this many.
        const READS: usize = 256;
        let OneVcpu { vcpu, vm } = t;
        let (last, middle) = (slots[slots.len() - 1], slots[slots.len() / 2]);
        let memory = Mapping::anonymous(((last + 1) * PAGE) as usize)?;
        // A page each, with a page of nothing between, and the other way round in the host's memory.
        let gpa = |slot: u64| GPA + 2 * slot * PAGE;
        let offset = |slot: u64| (last - slot) * PAGE;
        let read_ones = || slots.iter().copied().step_by(1 + slots.len() / READS).chain([last]);
        for slot in read_ones() {
            memory.write(offset(slot) as usize, &(CONTENT + slot).to_ne_bytes());
        }
        let made = slots
            .iter()
            .map(|slot| {
                vm.set_region(*slot as u32, 0, gpa(*slot), PAGE, memory.hva() + offset(*slot))
            })
            .take_while(Result::is_ok);
        check_eq!("every slot can be made", made.count(), slots.len());
        vcpu.run_until_sync(READY)?;
        for slot in read_ones() {
            let seen = read(vcpu, gpa(slot))?;
            check_eq!("every slot holds its own memory", seen, Access::Value(CONTENT + slot));
        }
        check_eq!(
            "a read between two slots is MMIO",
            read(vcpu, gpa(last) - PAGE)?,
            Access::MmioRead
        );
        check_eq!(
            "a read behind the last slot is MMIO",
            read(vcpu, gpa(last) + PAGE)?,
            Access::MmioRead
        );
        delete(vm, middle as u32).ioctl("KVM_SET_USER_MEMORY_REGION (delete)")?;
        check_eq!("one of all slots can be deleted", read(vcpu, gpa(middle))?, Access::MmioRead);
        check_eq!(
            "deleting one slot leaves the last",
            read(vcpu, gpa(last))?,
            Access::Value(CONTENT + last)
        );
        Ok(())
    }
}
