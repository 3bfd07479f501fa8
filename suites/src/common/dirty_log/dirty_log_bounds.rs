//! Which slots and pages the dirty log ioctls take (api.rst 4.8, 4.117).
use crate::common::memory::memslots::serve;
use crate::prelude::*;

#[guest]
fn accesses(g: &mut Guest) {
    serve(g);
}

#[host]
mod host {
    use super::*;
    use crate::common::memory::memslots::{Access, READY, pages, write};

    kvm_tests! {
        sees(
            moved: "reads the dirty log, which a new VM does not have",
            shuffled: "reads the dirty log, which a new memslot does not have",
            logged: "reads the dirty log",
        ),
    }

    const SLOT: u32 = 1;
    const UNLOGGED: u32 = 2;
    const ABSENT: u32 = 3;
    const PAGE: u64 = layout::PAGE_SIZE;
    const GPA: u64 = layout::FREE;
    const PAGES: u64 = 128;
    /// Pages that one word of the bitmap covers: ranges start and end at such a border.
    const WORD: u64 = 64;

    /// KVM_GET_DIRTY_LOG into a bitmap of `len` bytes.
    fn get(vm: &Vm, slot: u32, len: usize) -> Result<Vec<u8>, Errno> {
        let bitmap = GuardedBuffer::new(&vec![0; len]);
        let mut bytes = [slot.to_ne_bytes(), [0; 4]].concat();
        bytes.extend(bitmap.address().to_ne_bytes());
        vm.raw(request::KVM_GET_DIRTY_LOG, &mut bytes)?;
        Ok(bitmap.bytes().to_vec())
    }

    /// KVM_CLEAR_DIRTY_LOG of pages whose bits are all set, in a bitmap as long as the whole slot's.
    fn clear(vm: &Vm, slot: u32, first: u64, nr: u32) -> Result<(), Errno> {
        let bitmap = GuardedBuffer::new(&[0xff; PAGES as usize / 8]);
        let mut bytes = [slot.to_ne_bytes(), nr.to_ne_bytes()].concat();
        bytes.extend(first.to_ne_bytes());
        bytes.extend(bitmap.address().to_ne_bytes());
        vm.raw(request::KVM_CLEAR_DIRTY_LOG, &mut bytes).map(drop)
    }

    /// A slot that logs and one that does not.
    fn add_slots(vm: &mut Vm) -> TestResult {
        let log = bindings::KVM_MEM_LOG_DIRTY_PAGES;
        vm.add_mapping(SLOT, log, GPA, pages(PAGES, 0)?)?;
        vm.add_mapping(UNLOGGED, 0, GPA + 2 * PAGES * PAGE, pages(1, 0)?)?;
        Ok(())
    }

    /// The slots that have no dirty log, with what asking for it is.
    fn without_log(vm: &Vm) -> [(&'static str, u32, Errno); 5] {
        let slots = vm.check_extension(bindings::KVM_CAP_NR_MEMSLOTS) as u32;
        [
            ("a slot that does not log", UNLOGGED, Errno::ENOENT),
            ("a slot that is not there", ABSENT, Errno::ENOENT),
            ("slot KVM_CAP_NR_MEMSLOTS", slots, Errno::EINVAL),
            ("a slot of address space 2^15", 1 << 31 | SLOT, Errno::EINVAL),
            ("slot 2^32 - 1", u32::MAX, Errno::EINVAL),
        ]
    }

    /// api.rst 4.8: the log of a slot is a bit a page; there is none (ENOENT) for a slot that does not log
    /// and EINVAL for one that cannot be. A bitmap that is too short is EFAULT, and loses no page.
    #[kvm_test(accesses, requires(host::SMALL_SLOTS))]
    fn get_dirty_log_wants_a_slot_that_logs(t: &mut OneVcpu) -> TestResult {
        const BITMAP: usize = PAGES as usize / 8;
        let OneVcpu { vcpu, vm } = t;
        add_slots(vm)?;
        vcpu.run_until_sync(READY)?;
        for page in [0, PAGES - 1] {
            check_eq!(
                "the guest writes to the slot",
                write(vcpu, GPA + page * PAGE, 1)?,
                Access::Written
            );
        }
        for (what, slot, errno) in without_log(vm) {
            check_eq!(
                "the log of {what} is {errno:?}",
                get(vm, slot, BITMAP).map(drop),
                Err(errno)
            );
        }
        let log = get(vm, SLOT, BITMAP).ioctl("KVM_GET_DIRTY_LOG")?;
        let mut want = vec![0; BITMAP];
        (want[0], want[BITMAP - 1]) = (1, 0x80);
        check_eq!("the log has the pages that were written, and no others", log, want);
        let log = get(vm, SLOT, BITMAP).ioctl("KVM_GET_DIRTY_LOG")?;
        check_eq!("a log that was read starts empty again", log, [0; BITMAP]);
        let short = get(vm, SLOT, BITMAP - 1).map(drop);
        check_eq!("a bitmap that is a byte short is EFAULT", short, Err(Errno::EFAULT));
        Ok(())
    }

    /// api.rst 4.117: KVM_CLEAR_DIRTY_LOG takes ranges inside the slot that start at a multiple of 64
    /// pages and are a multiple of 64 long, or end with the slot; other ranges are EINVAL and clear nothing.
    #[kvm_test(accesses, requires(host::SMALL_SLOTS, cap::MANUAL_DIRTY_LOG_PROTECT2))]
    fn clear_dirty_log_wants_a_range_of_the_slot(t: &mut OneVcpu) -> TestResult {
        const BITMAP: usize = PAGES as usize / 8;
        /// Without KVM_DIRTY_LOG_INITIALLY_SET: only what the guest writes is dirty.
        const MANUAL_PROTECT_ENABLE: u64 = 1;
        const ALL: u32 = PAGES as u32;
        let OneVcpu { vcpu, vm } = t;
        vm.enable_cap(
            bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            [MANUAL_PROTECT_ENABLE, 0, 0, 0],
        )
        .ioctl("KVM_ENABLE_CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)")?;
        add_slots(vm)?;
        vcpu.run_until_sync(READY)?;
        for page in [0, WORD - 1, WORD, PAGES - 1] {
            check_eq!(
                "the guest writes to the slot",
                write(vcpu, GPA + page * PAGE, 1)?,
                Access::Written
            );
        }
        let log = || get(vm, SLOT, BITMAP).ioctl("KVM_GET_DIRTY_LOG");
        let mut want = vec![0; BITMAP];
        (want[0], want[7], want[8], want[BITMAP - 1]) = (1, 0x80, 1, 0x80);
        check_eq!("the log has the pages that were written, and no others", log()?, want);
        check_eq!("reading the log does not clear it", log()?, want);

        for (what, slot, errno) in without_log(vm) {
            check_eq!(
                "clearing the log of {what} is {errno:?}",
                clear(vm, slot, 0, 64),
                Err(errno)
            );
        }
        let bad = [
            ("a first page of 1", 1, 64),
            ("a first page of 63", WORD - 1, 64),
            ("a length of 63", 0, 63),
            ("a length of 1", 0, 1),
            ("a length of the slot's + 1", 0, ALL + 1),
            ("a length of the slot's + 64", 0, ALL + 64),
            ("a length of 2^31", 0, 1 << 31),
            ("a length of 2^32 - 64", 0, u32::MAX - 63),
            ("a length of 2^32 - 1", 0, u32::MAX),
            ("a range across the end", WORD, ALL),
            ("a range behind the end", PAGES, 64),
            ("a first page behind the end", PAGES + WORD, 0),
            ("a first page of 2^63", 1 << 63, 64),
            ("a range whose sum wraps to 0", 0_u64.wrapping_sub(WORD), 64),
            ("a range whose sum wraps into the slot", 0_u64.wrapping_sub(WORD), ALL),
        ];
        for (what, first, nr) in bad {
            check_eq!(
                "a clear with {what} is EINVAL",
                clear(vm, SLOT, first, nr),
                Err(Errno::EINVAL)
            );
            check_eq!("a clear with {what} clears nothing", log()?, want);
        }
        check_eq!("a range of no pages is accepted", clear(vm, SLOT, 0, 0), Ok(()));
        check_eq!("a range of no pages at the end is accepted", clear(vm, SLOT, PAGES, 0), Ok(()));
        check_eq!("a range of no pages clears nothing", log()?, want);
        check_eq!("the slot's second half may be cleared", clear(vm, SLOT, WORD, 64), Ok(()));
        (want[8], want[BITMAP - 1]) = (0, 0);
        check_eq!("the second half, and nothing else, is cleared", log()?, want);
        check_eq!("the whole slot may be cleared", clear(vm, SLOT, 0, ALL), Ok(()));
        check_eq!("a clear of the whole slot empties the log", log()?, [0; BITMAP]);
        Ok(())
    }
}
