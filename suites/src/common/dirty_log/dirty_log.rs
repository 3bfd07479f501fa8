//! Dirty logging by bitmap: KVM_GET_DIRTY_LOG (api.rst 4.8), KVM_CLEAR_DIRTY_LOG (4.117) and
//! KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (7.18).
use crate::prelude::*;

const PAGE: u64 = layout::PAGE_SIZE;
const BASE: u64 = layout::FREE;
const SLOT: u32 = 1;
/// No multiple of 64: the bitmap's last word is partly behind the slot.
const NR_PAGES: u64 = 100;

const READY: u64 = 1;
const LOAD: u64 = 2;
const STORE_8: u64 = 3;
const STORE_16: u64 = 4;
const STORE_32: u64 = 5;
const STORE_64: u64 = 6;
const STORE_PAGES: u64 = 7;
const LOAD_PAGES: u64 = 8;

/// Accesses what the host half asks for, until it asks for nothing.
#[guest]
fn obeys(g: &mut Guest) {
    loop {
        let [access, gpa, end, ..] = g.sync(READY, &[]);
        match access {
            LOAD => _ = peek::<u64>(gpa),
            STORE_8 => poke(gpa, 1_u8),
            STORE_16 => poke(gpa, 1_u16),
            STORE_32 => poke(gpa, 1_u32),
            STORE_64 => poke(gpa, 1_u64),
            STORE_PAGES => (gpa..end).step_by(PAGE as usize).for_each(|page| poke(page, 1_u64)),
            LOAD_PAGES => (gpa..end).step_by(PAGE as usize).for_each(|page| _ = peek::<u64>(page)),
            _ => return,
        }
    }
}

#[guest]
fn second_writer(g: &mut Guest) {
    obeys(g);
}

const RACE_PAGES: u64 = 64;

#[shared]
static STOP: AtomicU64 = AtomicU64::new(0);

/// Counts up in one page after the other until the host half says stop.
#[guest]
fn counts(_: &mut Guest) {
    let mut count = 0_u64;
    while STOP.load(SeqCst) == 0 {
        count += 1;
        poke(BASE + count % RACE_PAGES * PAGE, count);
    }
}

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MULTI_ADDRESS_SPACE, KVM_CAP_NR_MEMSLOTS,
        KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES,
    };
    use vm::bitmap;

    kvm_tests! {
        requires(host::SMALL_SLOTS),
        sees(
            moved: "reads the dirty log, which a new VM does not have",
            shuffled: "reads the dirty log, which a new memslot does not have",
            logged: "reads the dirty log",
        ),
    }
    const BITMAP_PAGES: u64 = 128;
    const NONE: [u64; 0] = [];

    fn access(vcpu: &mut Vcpu, kind: u64, gpa: u64, end: u64) -> TestResult {
        vcpu.answer(&[kind, gpa, end]);
        vcpu.run_until_sync(READY).map(drop)
    }

    /// Writes each page, one access a page.
    fn write_pages(vcpu: &mut Vcpu, pages: &[u64]) -> TestResult {
        pages.iter().try_for_each(|page| access(vcpu, STORE_64, BASE + page * PAGE, 0))
    }

    fn finish(vcpu: &mut Vcpu) -> TestResult {
        vcpu.answer(&[0]);
        vcpu.run_until_done()
    }

    /// A logged slot of `NR_PAGES`, every page of which the guest has written, with a clean log and the
    /// guest at its first sync.
    fn logged_slot(t: &mut OneVcpu) -> TestResult {
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, NR_PAGES * PAGE)?;
        t.vcpu.run_until_sync(READY)?;
        access(&mut t.vcpu, STORE_PAGES, BASE, BASE + NR_PAGES * PAGE)?;
        t.vm.dirty_pages(SLOT, NR_PAGES).ioctl("KVM_GET_DIRTY_LOG")?;
        Ok(())
    }

    fn dirty(t: &OneVcpu) -> TestResult<Vec<u64>> {
        t.vm.dirty_pages(SLOT, NR_PAGES).ioctl("KVM_GET_DIRTY_LOG")
    }

    fn manual_protect(vm: &Vm, options: u32) -> Result<(), Errno> {
        vm.enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, [options.into(), 0, 0, 0])
    }

    /// The bitmap has exactly the pages that the guest wrote since the last call (api.rst 4.8).
    #[kvm_test(obeys)]
    fn bitmap_has_exactly_the_written_pages(t: &mut OneVcpu) -> TestResult {
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, NR_PAGES * PAGE)?;
        t.vcpu.run_until_sync(READY)?;
        check_eq!("the log of a new slot is empty", dirty(t)?, NONE);

        write_pages(&mut t.vcpu, &[5])?;
        check_eq!("the first write to a page is logged", dirty(t)?, vec![5]);
        check_eq!("reading the log clears it", dirty(t)?, NONE);
        write_pages(&mut t.vcpu, &[5])?;
        check_eq!("a write after the log was read is logged again", dirty(t)?, vec![5]);
        write_pages(&mut t.vcpu, &[7, 7, 7])?;
        check_eq!("a page written three times is one bit", dirty(t)?, vec![7]);

        let edges = [0, 1, 62, 63, 64, 65, NR_PAGES - 2, NR_PAGES - 1];
        write_pages(&mut t.vcpu, &edges)?;
        check_eq!("pages next to the slot's and the words' edges are told apart", dirty(t)?, edges);

        access(&mut t.vcpu, STORE_PAGES, BASE, BASE + NR_PAGES * PAGE)?;
        let all: Vec<u64> = (0..NR_PAGES).collect();
        check_eq!("a full log ends with the slot: bits behind it are zero", dirty(t)?, all);
        check_eq!("a full log is cleared as a whole", dirty(t)?, NONE);
        finish(&mut t.vcpu)
    }

    /// Stores of every width dirty their page, at its first and at its last byte.
    #[kvm_test(obeys, params = [
    bits_8: (STORE_8, 1),
    bits_16: (STORE_16, 2),
    bits_32: (STORE_32, 4),
    bits_64: (STORE_64, 8),
])]
    fn store_dirties_its_page_only(t: &mut OneVcpu, (kind, width): (u64, u64)) -> TestResult {
        logged_slot(t)?;
        access(&mut t.vcpu, kind, BASE + 10 * PAGE, 0)?;
        check_eq!("a store to a page's first bytes dirties that page only", dirty(t)?, vec![10]);
        access(&mut t.vcpu, kind, BASE + 11 * PAGE - width, 0)?;
        check_eq!("a store to a page's last bytes dirties that page only", dirty(t)?, vec![10]);
        access(&mut t.vcpu, kind, BASE + NR_PAGES * PAGE - width, 0)?;
        check_eq!(
            "a store to the slot's last bytes dirties its last page",
            dirty(t)?,
            [NR_PAGES - 1]
        );
        finish(&mut t.vcpu)
    }

    /// Loads from pages that are mapped for the guest dirty nothing.
    #[kvm_test(obeys)]
    fn loads_dirty_nothing(t: &mut OneVcpu) -> TestResult {
        logged_slot(t)?;
        access(&mut t.vcpu, LOAD, BASE + 3 * PAGE, 0)?;
        check_eq!("one load dirties nothing", dirty(t)?, NONE);
        access(&mut t.vcpu, LOAD_PAGES, BASE, BASE + NR_PAGES * PAGE)?;
        check_eq!("loads from every page dirty nothing", dirty(t)?, NONE);
        write_pages(&mut t.vcpu, &[3])?;
        check_eq!("a store to a page loaded before is logged", dirty(t)?, vec![3]);
        finish(&mut t.vcpu)
    }

    /// Userspace's own accesses to a slot's memory are not in the log, whose subject is the guest.
    #[kvm_test(obeys)]
    fn host_stores_are_not_logged(t: &mut OneVcpu) -> TestResult {
        logged_slot(t)?;
        t.vm.mapping(0).write((4 * PAGE) as usize, &[0x55; 8]);
        check_eq!("a store of userspace is not in the log", dirty(t)?, NONE);
        finish(&mut t.vcpu)
    }

    /// KVM_MEM_LOG_DIRTY_PAGES can be set and cleared on a live slot (api.rst 4.35).
    #[kvm_test(obeys)]
    fn logging_is_switched_on_and_off(t: &mut OneVcpu) -> TestResult {
        let size = NR_PAGES * PAGE;
        let hva = t.vm.add_memory(SLOT, 0, BASE, size)?.hva();
        t.vcpu.run_until_sync(READY)?;
        write_pages(&mut t.vcpu, &[1, 2])?;
        let none = t.vm.dirty_pages(SLOT, NR_PAGES);
        check_eq!("a slot without logging has no log: ENOENT", none, Err(Errno::ENOENT));

        let set = |flags| t.vm.set_region(SLOT, flags, BASE, size, hva);
        set(KVM_MEM_LOG_DIRTY_PAGES).ioctl("switch logging on")?;
        check_eq!("writes before logging was on are not in the log", dirty(t)?, NONE);
        write_pages(&mut t.vcpu, &[2, 3])?;
        check_eq!("writable pages are logged once logging is on", dirty(t)?, vec![2, 3]);

        write_pages(&mut t.vcpu, &[8])?;
        let set = |flags| t.vm.set_region(SLOT, flags, BASE, size, hva);
        set(KVM_MEM_LOG_DIRTY_PAGES).ioctl("set the same flags again")?;
        check_eq!("setting the same region again keeps the log", dirty(t)?, vec![8]);

        write_pages(&mut t.vcpu, &[9])?;
        let set = |flags| t.vm.set_region(SLOT, flags, BASE, size, hva);
        set(0).ioctl("switch logging off")?;
        let off = t.vm.dirty_pages(SLOT, NR_PAGES);
        check_eq!("switched off, the slot has no log: ENOENT", off, Err(Errno::ENOENT));
        write_pages(&mut t.vcpu, &[10])?;
        let set = |flags| t.vm.set_region(SLOT, flags, BASE, size, hva);
        set(KVM_MEM_LOG_DIRTY_PAGES).ioctl("switch logging on again")?;
        check_eq!("switched on again, the log starts empty", dirty(t)?, NONE);
        write_pages(&mut t.vcpu, &[9, 10])?;
        check_eq!("switched on again, writes are logged", dirty(t)?, vec![9, 10]);
        check!(
            "the guest's writes reach memory whatever the log",
            [1, 2, 3, 8, 9, 10].iter().all(|p| t.vm.mapping(0).read_u64((p * PAGE) as usize) == 1)
        );
        finish(&mut t.vcpu)
    }

    /// Slots are logged apart from each other.
    #[kvm_test(obeys)]
    fn slots_have_logs_of_their_own(t: &mut OneVcpu) -> TestResult {
        const SECOND: u32 = 2;
        logged_slot(t)?;
        let next = BASE + NR_PAGES * PAGE;
        t.vm.add_memory(SECOND, KVM_MEM_LOG_DIRTY_PAGES, next, 2 * PAGE)?;
        write_pages(&mut t.vcpu, &[NR_PAGES - 1, NR_PAGES])?;
        check_eq!("the first slot's log has its last page", dirty(t)?, [NR_PAGES - 1]);
        let second = t.vm.dirty_pages(SECOND, 2).ioctl("KVM_GET_DIRTY_LOG")?;
        check_eq!("the log of the slot behind it has its first page", second, vec![0]);
        write_pages(&mut t.vcpu, &[NR_PAGES + 1])?;
        check_eq!("a write to the second slot leaves the first log clean", dirty(t)?, NONE);
        finish(&mut t.vcpu)
    }

    /// KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG refuse slots that cannot be.
    #[kvm_test]
    fn impossible_slots_are_refused(t: &mut OneVm) -> TestResult {
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, NR_PAGES * PAGE)?;
        let get = |slot| t.vm.dirty_pages(slot, NR_PAGES);
        let nr_slots = t.vm.check_extension(KVM_CAP_NR_MEMSLOTS) as u32;
        let spaces = t.vm.check_extension(KVM_CAP_MULTI_ADDRESS_SPACE).max(1) as u32;
        check_eq!(
            "a slot that was never set has no log: ENOENT",
            get(SLOT + 1),
            Err(Errno::ENOENT)
        );
        check_eq!(
            "the last possible slot, unset, is ENOENT",
            get(nr_slots - 1),
            Err(Errno::ENOENT)
        );
        check_eq!("the first slot number too large is EINVAL", get(nr_slots), Err(Errno::EINVAL));
        check_eq!("slot number 0xffff is EINVAL", get(0xffff), Err(Errno::EINVAL));
        let space = get(spaces << 16 | SLOT);
        check_eq!("the first address space too many is EINVAL", space, Err(Errno::EINVAL));
        check_eq!("address space 0xffff is EINVAL", get(0xffff << 16 | SLOT), Err(Errno::EINVAL));

        t.vm.set_region(SLOT, 0, 0, 0, 0).ioctl("delete the slot")?;
        check_eq!("a deleted slot has no log: ENOENT", get(SLOT), Err(Errno::ENOENT));
        Ok(())
    }

    /// What a clear may name (api.rst 4.117): `first_page` a multiple of 64, `num_pages` too unless it
    /// reaches the slot's end, and nothing behind that end.
    #[kvm_test(requires(cap::MANUAL_DIRTY_LOG_PROTECT2))]
    fn clear_refuses_ranges_that_are_not_aligned(t: &mut OneVm) -> TestResult {
        let options = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
        manual_protect(&t.vm, options).ioctl("KVM_ENABLE_CAP")?;
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, NR_PAGES * PAGE)?;
        let words = bitmap(BITMAP_PAGES, []);
        let clear = |first, pages| t.vm.clear_dirty_log(SLOT, first, pages, &words);
        let end = NR_PAGES as u32;
        check_eq!("the whole slot may be cleared", clear(0, end), Ok(()));
        check_eq!("the first 64 pages may be cleared", clear(0, 64), Ok(()));
        check_eq!("pages from 64 to the slot's end may be cleared", clear(64, end - 64), Ok(()));
        check_eq!("a clear of no pages is accepted", clear(64, 0), Ok(()));
        check_eq!("first_page 1 is EINVAL", clear(1, end - 1), Err(Errno::EINVAL));
        check_eq!("first_page 63 is EINVAL", clear(63, end - 63), Err(Errno::EINVAL));
        check_eq!("first_page 32 is EINVAL", clear(32, 64), Err(Errno::EINVAL));
        check_eq!("num_pages 1 before the end is EINVAL", clear(0, 1), Err(Errno::EINVAL));
        check_eq!("num_pages 63 is EINVAL", clear(0, 63), Err(Errno::EINVAL));
        check_eq!("num_pages 65 is EINVAL", clear(0, 65), Err(Errno::EINVAL));
        check_eq!(
            "num_pages one less than the rest is EINVAL",
            clear(64, end - 65),
            Err(Errno::EINVAL)
        );
        check_eq!("one page more than the slot is EINVAL", clear(0, end + 1), Err(Errno::EINVAL));
        check_eq!(
            "aligned, but behind the slot's end, is EINVAL",
            clear(0, 128),
            Err(Errno::EINVAL)
        );
        check_eq!("first_page behind the slot is EINVAL", clear(128, 0), Err(Errno::EINVAL));
        let wraps = clear(!63, 128);
        check_eq!("a range that wraps around is EINVAL", wraps, Err(Errno::EINVAL));

        let other = |slot| t.vm.clear_dirty_log(slot, 0, end, &words);
        let nr_slots = t.vm.check_extension(KVM_CAP_NR_MEMSLOTS) as u32;
        check_eq!("clearing a slot never set is ENOENT", other(SLOT + 1), Err(Errno::ENOENT));
        check_eq!(
            "clearing a slot number too large is EINVAL",
            other(nr_slots),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "clearing address space 0xffff is EINVAL",
            other(0xffff << 16 | SLOT),
            Err(Errno::EINVAL)
        );
        let unlogged = t.vm.clear_dirty_log(0, 0, 64, &words);
        check_eq!("clearing a slot without logging is ENOENT", unlogged, Err(Errno::ENOENT));
        Ok(())
    }

    /// With manual protection, reading the log leaves it as it is, and KVM_CLEAR_DIRTY_LOG clears what
    /// its bitmap names, no page more (api.rst 4.117, 7.18).
    #[kvm_test(obeys, requires(cap::MANUAL_DIRTY_LOG_PROTECT2))]
    fn manual_protect_clears_exactly_what_is_named(t: &mut OneVcpu) -> TestResult {
        let options = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
        manual_protect(&t.vm, options).ioctl("KVM_ENABLE_CAP")?;
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, NR_PAGES * PAGE)?;
        t.vcpu.run_until_sync(READY)?;
        check_eq!("a new log is empty without INITIALLY_SET", dirty(t)?, NONE);
        write_pages(&mut t.vcpu, &[0, 1, 63, 64, 65, 99])?;
        check_eq!("the log has the written pages", dirty(t)?, vec![0, 1, 63, 64, 65, 99]);
        check_eq!("reading the log does not clear it", dirty(t)?, vec![0, 1, 63, 64, 65, 99]);

        let named = bitmap(NR_PAGES, [1, 64]);
        t.vm.clear_dirty_log(SLOT, 0, NR_PAGES as u32, &named).ioctl("KVM_CLEAR_DIRTY_LOG")?;
        check_eq!("a clear of the slot clears the named bits only", dirty(t)?, vec![0, 63, 65, 99]);
        t.vm.clear_dirty_log(SLOT, 64, 36, &bitmap(36, [1])).ioctl("KVM_CLEAR_DIRTY_LOG")?;
        check_eq!("bit 0 of a clear's bitmap is first_page", dirty(t)?, vec![0, 63, 99]);
        t.vm.clear_dirty_log(SLOT, 0, 64, &[1 << 63]).ioctl("KVM_CLEAR_DIRTY_LOG")?;
        check_eq!("a clear of the first 64 pages leaves the others", dirty(t)?, vec![0, 99]);
        t.vm.clear_dirty_log(SLOT, 0, NR_PAGES as u32, &bitmap(NR_PAGES, [2])).ioctl("clear")?;
        check_eq!("clearing a clean page changes nothing", dirty(t)?, vec![0, 99]);
        t.vm.clear_dirty_log(SLOT, 64, 36, &[!0]).ioctl("clear")?;
        check_eq!("bits behind the range's end do no harm", dirty(t)?, vec![0]);

        write_pages(&mut t.vcpu, &[0, 1, 99])?;
        check_eq!("cleared pages are logged when written again", dirty(t)?, vec![0, 1, 99]);
        finish(&mut t.vcpu)
    }

    /// Without manual protection KVM_CLEAR_DIRTY_LOG works too (api.rst 4.117: it is "mostly useful"
    /// with it), on bits set since the last KVM_GET_DIRTY_LOG.
    #[kvm_test(obeys, requires(cap::MANUAL_DIRTY_LOG_PROTECT2))]
    fn clear_works_without_manual_protect(t: &mut OneVcpu) -> TestResult {
        logged_slot(t)?;
        write_pages(&mut t.vcpu, &[20, 70])?;
        t.vm.clear_dirty_log(SLOT, 0, 64, &bitmap(64, [20])).ioctl("KVM_CLEAR_DIRTY_LOG")?;
        check_eq!("a clear before the log was read takes its page out", dirty(t)?, vec![70]);
        write_pages(&mut t.vcpu, &[20])?;
        check_eq!("a cleared page is logged when written again", dirty(t)?, vec![20]);
        finish(&mut t.vcpu)
    }

    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 takes the options that it reports; INITIALLY_SET only together
    /// with MANUAL_PROTECT_ENABLE (api.rst 7.18).
    #[kvm_test(requires(cap::MANUAL_DIRTY_LOG_PROTECT2))]
    fn manual_protect_options_are_checked(t: &mut OneVm) -> TestResult {
        let offered = t.vm.check_extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) as u32;
        let (enable, initially_set) =
            (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_DIRTY_LOG_INITIALLY_SET);
        check_eq!("MANUAL_PROTECT_ENABLE is among the offered options", offered & enable, enable);
        check_eq!("no unknown option is offered", offered & !(enable | initially_set), 0);
        check_eq!(
            "MANUAL_PROTECT_ENABLE can be switched on",
            manual_protect(&t.vm, enable),
            Ok(())
        );
        let all = manual_protect(&t.vm, offered);
        check_eq!("every offered option is accepted", all, Ok(()));
        let alone = manual_protect(&t.vm, initially_set);
        check_eq!("INITIALLY_SET alone is EINVAL", alone, Err(Errno::EINVAL));
        for bit in 2..32 {
            let unknown = manual_protect(&t.vm, enable | 1 << bit);
            check_eq!("an unknown option is EINVAL", unknown, Err(Errno::EINVAL));
        }
        let high = t.vm.enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, [1 << 32 | 1, 0, 0, 0]);
        check_eq!("an unknown option in the high half is EINVAL", high, Err(Errno::EINVAL));
        check_eq!("manual protection can be switched off again", manual_protect(&t.vm, 0), Ok(()));
        Ok(())
    }

    /// With KVM_DIRTY_LOG_INITIALLY_SET a new log has every page of its slot (api.rst 7.18).
    #[kvm_test(obeys, requires(cap::MANUAL_DIRTY_LOG_PROTECT2))]
    fn initially_set_log_is_full(t: &mut OneVcpu) -> TestResult {
        let options = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
        let offered = t.vm.check_extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) as u32;
        require!(offered & options == options, "KVM_DIRTY_LOG_INITIALLY_SET");
        manual_protect(&t.vm, options).ioctl("KVM_ENABLE_CAP")?;
        let size = NR_PAGES * PAGE;
        let hva = t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, size)?.hva();
        t.vcpu.run_until_sync(READY)?;
        let all: Vec<u64> = (0..NR_PAGES).collect();
        check_eq!("a new log has every page, and no bit behind the slot", dirty(t)?, all);
        t.vm.clear_dirty_log(SLOT, 0, NR_PAGES as u32, &[!0, !0]).ioctl("KVM_CLEAR_DIRTY_LOG")?;
        check_eq!("a full log can be cleared as a whole", dirty(t)?, NONE);
        write_pages(&mut t.vcpu, &[0, 99])?;
        check_eq!("the log has the pages written after the first clear", dirty(t)?, vec![0, 99]);

        t.vm.set_region(SLOT, 0, BASE, size, hva).ioctl("switch logging off")?;
        t.vm.set_region(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, size, hva).ioctl("on")?;
        check_eq!("logging switched on for a live slot starts full", dirty(t)?, all);
        finish(&mut t.vcpu)
    }

    /// Every vCPU's writes are in the slot's one log.
    #[kvm_test(obeys)]
    fn second_vcpu_writes_into_the_same_log(t: &mut OneVcpu) -> TestResult {
        logged_slot(t)?;
        let mut second = t.vm.add_vcpu(1, guest_fn!(second_writer))?;
        second.run_until_sync(READY)?;
        write_pages(&mut second, &[40])?;
        check_eq!("a write of the second vCPU is logged", dirty(t)?, vec![40]);
        write_pages(&mut t.vcpu, &[41])?;
        write_pages(&mut second, &[42])?;
        check_eq!("one log has the writes of both vCPUs", dirty(t)?, vec![41, 42]);
        write_pages(&mut t.vcpu, &[43])?;
        dirty(t)?;
        write_pages(&mut second, &[43])?;
        check_eq!("a page of the first vCPU's is logged for the second", dirty(t)?, [43]);
        write_pages(&mut t.vcpu, &[43])?;
        check_eq!("a page of the second vCPU's is logged for the first", dirty(t)?, vec![43]);
        finish(&mut second)?;
        finish(&mut t.vcpu)
    }
    const RACE_ROUNDS: u64 = 200;
    /// How long a vCPU that may run takes to write at all.
    const LONGEST: std::time::Duration = std::time::Duration::from_secs(3);

    /// A log read while the guest writes loses no page: whoever copies each page after its bit came up
    /// has, when the guest has stopped and the log was read once more, all of memory.
    #[kvm_test(counts, vcpus = 2, params = [automatic: false, manual: true])]
    fn concurrent_writes_are_never_lost(t: &mut OneVcpu, manual: bool) -> TestResult {
        if manual {
            let offered = t.vm.check_extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
            require!(offered != 0, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
            let options = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
            manual_protect(&t.vm, options).ioctl("KVM_ENABLE_CAP")?;
        }
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, RACE_PAGES * PAGE)?;
        let (vm, vcpu) = (&t.vm, &mut t.vcpu);
        let mut copy = vec![0; RACE_PAGES as usize];
        let mut copy_dirty_pages = || -> TestResult<usize> {
            let pages = vm.dirty_pages(SLOT, RACE_PAGES).ioctl("KVM_GET_DIRTY_LOG")?;
            if manual {
                let named = bitmap(RACE_PAGES, pages.iter().copied());
                vm.clear_dirty_log(SLOT, 0, RACE_PAGES as u32, &named)
                    .ioctl("KVM_CLEAR_DIRTY_LOG")?;
            }
            for page in &pages {
                copy[*page as usize] = vm.mapping(0).read_u64((page * PAGE) as usize);
            }
            Ok(pages.len())
        };
        let (mut rounds, mut rounds_with_pages) = (0, 0);
        together(|threads| {
            let _guest = threads.run(vcpu, Vcpu::run_until_done);
            // On a busy host it takes its time until the guest runs.
            let patience = vm::Patience::new(LONGEST);
            while rounds < RACE_ROUNDS || (rounds_with_pages < 2 && !patience.is_over()) {
                rounds += 1;
                rounds_with_pages += u64::from(copy_dirty_pages()? > 0);
                std::thread::sleep(std::time::Duration::from_micros(100));
            }
            vm.shared(shared_static!(STOP)).store(1, SeqCst);
            Ok(())
        })?;
        copy_dirty_pages()?;
        check!("the guest wrote while the log was read", rounds_with_pages > 1);
        let lost: Vec<u64> = (0..RACE_PAGES)
            .filter(|p| copy[*p as usize] != vm.mapping(0).read_u64((p * PAGE) as usize))
            .collect();
        check_eq!("the log misses no page's last write", lost, NONE);
        let last = vm.dirty_pages(SLOT, RACE_PAGES).ioctl("KVM_GET_DIRTY_LOG")?;
        check_eq!("the log is clean once it was read with the guest stopped", last, NONE);
        Ok(())
    }
}
