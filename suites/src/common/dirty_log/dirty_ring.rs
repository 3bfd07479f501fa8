//! Dirty logging by rings (api.rst 8.29): one ring per vCPU, collected in userspace, taken back by
//! KVM_RESET_DIRTY_RINGS.
use crate::prelude::*;

const PAGE: u64 = layout::PAGE_SIZE;
const BASE: u64 = layout::FREE;

const READY: u64 = 1;

/// Writes the pages from one address to another, a page at a time, until there are none.
#[guest]
fn writes(g: &mut Guest) {
    loop {
        let [start, end, ..] = g.sync(READY, &[]);
        if start == end {
            return;
        }
        (start..end).step_by(PAGE as usize).for_each(|page| poke(page, page));
    }
}

#[guest]
fn second_writes(g: &mut Guest) {
    writes(g);
}

/// Writes `arg(0)` pages.
#[guest]
fn writes_many(g: &mut Guest) {
    for page in 0..g.arg(0) {
        poke(BASE + page * PAGE, page + 1);
    }
}

#[host]
mod host {
    use super::*;
    use nix::sys::mman::{MapFlags, ProtFlags};
    use vm::bindings::{
        KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_MEM_LOG_DIRTY_PAGES,
    };
    use vm::{DirtyGfn, DirtyRing, KVM_DIRTY_GFN_F_DIRTY};

    kvm_tests! {
        sees(
            moved: "reads the dirty ring, which a new vCPU has none of",
            logged: "has a ring, and no bitmap beside it",
        ),
    }

    const SLOT: u32 = 1;
    const NR_PAGES: u64 = 100;
    const ENTRY_BYTES: u64 = 16;
    /// The size that api.rst recommends at least.
    const RING_BYTES: u64 = 64 << 10;
    /// Pages that one emulated write may dirty: the two that it lies in, and the four levels of tables of
    /// each, where KVM sets accessed and dirty bits.
    const MOST_WRITTEN_AT_ONCE: usize = 2 + 2 * 4;

    fn write_pages(vcpu: &mut Vcpu, from: u64, to: u64) -> TestResult {
        vcpu.answer(&[BASE + from * PAGE, BASE + to * PAGE]);
        vcpu.run_until_sync(READY).map(drop)
    }

    fn finish(vcpu: &mut Vcpu) -> TestResult {
        vcpu.answer(&[0, 0]);
        vcpu.run_until_done()
    }

    fn enable(vm: &Vm, cap: u32, bytes: u64) -> Result<(), Errno> {
        vm.enable_cap(cap, [bytes, 0, 0, 0])
    }

    /// The pages that entries name, each once: KVM may log a page again that is in the ring already, as
    /// it does for every write that it emulates. Entries of another slot come as `u64::MAX`.
    fn pages(entries: &[DirtyGfn]) -> Vec<u64> {
        let page = |e: &DirtyGfn| if e.slot == SLOT { e.offset } else { u64::MAX };
        let mut pages: Vec<u64> = entries.iter().map(page).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// A VM with rings, a logged slot of `nr_pages`, and vCPU 0 at its first sync.
    fn ringed(
        vm: &mut Vm,
        guest: GuestFn,
        bytes: u64,
        nr_pages: u64,
    ) -> TestResult<(Vcpu, DirtyRing)> {
        enable(vm, KVM_CAP_DIRTY_LOG_RING, bytes)
            .ioctl("KVM_ENABLE_CAP(KVM_CAP_DIRTY_LOG_RING)")?;
        vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, nr_pages * PAGE)?;
        ringed_vcpu(vm, 0, guest, bytes)
    }

    fn ringed_vcpu(
        vm: &mut Vm,
        index: u32,
        guest: GuestFn,
        bytes: u64,
    ) -> TestResult<(Vcpu, DirtyRing)> {
        let mut vcpu = vm.add_vcpu(index, guest)?;
        let ring = DirtyRing::map(&vcpu, bytes).ioctl("mmap of the dirty ring")?;
        vcpu.run_until_sync(READY)?;
        Ok((vcpu, ring))
    }

    /// Sizes are powers of two from a page (or what the hardware needs) to what the capability reports,
    /// and set once.
    #[kvm_test(requires(cap::DIRTY_LOG_RING))]
    fn ring_size_rules(t: &mut OneVm) -> TestResult {
        let max = t.vm.check_extension(KVM_CAP_DIRTY_LOG_RING) as u64;
        let set = |bytes| enable(&t.vm, KVM_CAP_DIRTY_LOG_RING, bytes);
        check!("the largest size is a power of two", max.is_power_of_two(), "{max:#x}");
        check!("the recommended size of 64 KiB is possible", max >= RING_BYTES, "{max:#x}");
        check_eq!("a ring of 0 bytes is EINVAL", set(0), Err(Errno::EINVAL));
        check_eq!("a ring of one entry is EINVAL", set(ENTRY_BYTES), Err(Errno::EINVAL));
        check_eq!("a ring of half a page is EINVAL", set(PAGE / 2), Err(Errno::EINVAL));
        check_eq!(
            "one entry more than a power of two is EINVAL",
            set(RING_BYTES + ENTRY_BYTES),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "one byte less than a power of two is EINVAL",
            set(RING_BYTES - 1),
            Err(Errno::EINVAL)
        );
        check_eq!("three pages are EINVAL", set(3 * PAGE), Err(Errno::EINVAL));
        check_eq!("twice the largest size is E2BIG", set(max * 2), Err(Errno::E2BIG));
        let reset = t.vm.reset_dirty_rings();
        check_eq!("KVM_RESET_DIRTY_RINGS without rings is EINVAL", reset, Err(Errno::EINVAL));
        check_eq!("a ring of 64 KiB is accepted after the refused sizes", set(RING_BYTES), Ok(()));
        check_eq!("the same size a second time is EINVAL", set(RING_BYTES), Err(Errno::EINVAL));
        check_eq!("a second, different size is EINVAL", set(RING_BYTES * 2), Err(Errno::EINVAL));
        check_eq!(
            "resetting the rings of no vCPU takes back nothing",
            t.vm.reset_dirty_rings(),
            Ok(0)
        );
        Ok(())
    }

    /// The largest size that the capability reports works.
    #[kvm_test(requires(cap::DIRTY_LOG_RING))]
    fn largest_ring_is_taken(t: &mut OneVm) -> TestResult {
        let max = t.vm.check_extension(KVM_CAP_DIRTY_LOG_RING) as u64;
        check_eq!(
            "the largest ring size is accepted",
            enable(&t.vm, KVM_CAP_DIRTY_LOG_RING, max),
            Ok(())
        );
        let vcpu = t.vm.create_vcpu(0)?;
        let ring = DirtyRing::map(&vcpu, max).ioctl("mmap of the dirty ring")?;
        let last = ring.entries() - 1;
        check_eq!(
            "the largest ring's last entry is readable and empty",
            ring.flags(last).load(SeqCst),
            0
        );
        Ok(())
    }

    /// Rings come before vCPUs.
    #[kvm_test(requires(cap::DIRTY_LOG_RING))]
    fn rings_must_come_before_vcpus(t: &mut OneVm) -> TestResult {
        let _vcpu = t.vm.create_vcpu(0)?;
        let late = enable(&t.vm, KVM_CAP_DIRTY_LOG_RING, RING_BYTES);
        check_eq!("rings for a VM that has a vCPU are EINVAL", late, Err(Errno::EINVAL));
        let reset = t.vm.reset_dirty_rings();
        check_eq!("the refused VM has no rings to reset: EINVAL", reset, Err(Errno::EINVAL));
        Ok(())
    }

    /// A ring can be mapped shared, and not for execution.
    #[kvm_test(requires(cap::DIRTY_LOG_RING))]
    fn ring_mapping_is_shared_and_never_executable(t: &mut OneVm) -> TestResult {
        enable(&t.vm, KVM_CAP_DIRTY_LOG_RING, RING_BYTES).ioctl("KVM_ENABLE_CAP")?;
        let vcpu = t.vm.create_vcpu(0)?;
        let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let map =
            |prot, flags| DirtyRing::map_with(&vcpu, RING_BYTES, prot, flags).map(|m| m.len());
        check_eq!(
            "a shared mapping is made",
            map(rw, MapFlags::MAP_SHARED),
            Ok(RING_BYTES as usize)
        );
        check_eq!(
            "a private mapping is EINVAL",
            map(rw, MapFlags::MAP_PRIVATE),
            Err(Errno::EINVAL)
        );
        let executable = map(rw | ProtFlags::PROT_EXEC, MapFlags::MAP_SHARED);
        // /dev mounted noexec refuses before KVM is asked.
        let refused = matches!(executable, Err(Errno::EINVAL | Errno::EPERM));
        check!("an executable mapping is refused", refused, "{executable:?}");
        Ok(())
    }

    /// Entries name the slot and the page in it.
    #[kvm_test(writes, requires(cap::DIRTY_LOG_RING))]
    fn entries_name_every_written_page(t: &mut OneVm) -> TestResult {
        let (mut vcpu, mut ring) = ringed(&mut t.vm, guest_fn!(writes), RING_BYTES, NR_PAGES)?;
        check_eq!("the ring of a new vCPU is empty", ring.filled(), []);
        write_pages(&mut vcpu, 5, 6)?;
        check_eq!(
            "a written page is one entry",
            ring.filled(),
            [DirtyGfn { slot: SLOT, offset: 5 }]
        );
        check_eq!(
            "DIRTY is the only flag of a new entry",
            ring.flags(0).load(SeqCst),
            KVM_DIRTY_GFN_F_DIRTY
        );
        write_pages(&mut vcpu, 5, 6)?;
        check_eq!("the page written again is in the ring", pages(&ring.filled()), [5]);
        write_pages(&mut vcpu, 0, 2)?;
        write_pages(&mut vcpu, NR_PAGES - 1, NR_PAGES)?;
        check_eq!(
            "the slot's first and last page are entries",
            pages(&ring.filled()),
            [0, 1, 5, NR_PAGES - 1]
        );

        let collected = ring.collect(usize::MAX).len();
        let taken_back = t.vm.reset_dirty_rings();
        check_eq!("a reset takes back every collected entry", taken_back, Ok(collected as i32));
        check!(
            "entries that were taken back have no flags",
            (0..collected).all(|i| ring.flags(i).load(SeqCst) == 0)
        );
        check_eq!("a second reset takes back nothing", t.vm.reset_dirty_rings(), Ok(0));
        check_eq!("reading pages after the reset: the ring is empty", ring.filled(), []);
        write_pages(&mut vcpu, 4, 7)?;
        check_eq!("pages are logged again after the reset", pages(&ring.filled()), [4, 5, 6]);
        finish(&mut vcpu)
    }

    /// KVM_RESET_DIRTY_RINGS takes back what was collected, and protects just those pages again.
    #[kvm_test(writes, requires(cap::DIRTY_LOG_RING))]
    fn reset_takes_back_collected_entries_only(t: &mut OneVm) -> TestResult {
        let (mut vcpu, mut ring) = ringed(&mut t.vm, guest_fn!(writes), RING_BYTES, NR_PAGES)?;
        for page in [10, 20, 30] {
            write_pages(&mut vcpu, page, page + 1)?;
        }
        check_eq!(
            "a reset takes back nothing before an entry is collected",
            t.vm.reset_dirty_rings(),
            Ok(0)
        );
        check_eq!("a reset leaves entries that were not collected", ring.filled().len(), 3);
        let first = pages(&ring.collect(2));
        check_eq!("two collected entries are taken back", t.vm.reset_dirty_rings(), Ok(2));
        check_eq!("the third entry is left in the ring", ring.filled().len(), 1);
        let third = pages(&ring.filled());

        for page in [10, 20, 30] {
            write_pages(&mut vcpu, page, page + 1)?;
        }
        let again = pages(&ring.filled()[1..]);
        let logged_again = first.iter().all(|page| again.contains(page));
        check!("the pages taken back are logged again", logged_again, "{again:?}");
        check_eq!("all three pages are in the ring", pages(&ring.filled()), [10, 20, 30]);
        check!("the entry left behind was for the third page", !first.contains(&third[0]));
        let rest = ring.collect(usize::MAX).len();
        check_eq!("a later reset takes back the rest", t.vm.reset_dirty_rings(), Ok(rest as i32));
        finish(&mut vcpu)
    }

    /// Pages that one reset takes back are all protected again, in whatever order and however far apart
    /// they were written. (KVM gathers neighbours into masks of 64 pages.)
    #[kvm_test(writes, requires(cap::DIRTY_LOG_RING), params = [
    forwards: &[5, 6, 9],
    backwards: &[9, 6, 5],
    to_and_fro: &[40, 20, 60],
    as_far_as_a_mask: &[7, 7 + 63],
    back_as_far_as_a_mask: &[7 + 63, 7],
    further_than_a_mask: &[7, 7 + 64],
    back_further_than_a_mask: &[7 + 64, 7],
])]
    fn reset_protects_every_page_again(t: &mut OneVm, order: &[u64]) -> TestResult {
        let (mut vcpu, mut ring) = ringed(&mut t.vm, guest_fn!(writes), RING_BYTES, NR_PAGES)?;
        let mut want = order.to_vec();
        want.sort_unstable();
        for round in ["first", "second"] {
            for page in order {
                write_pages(&mut vcpu, *page, page + 1)?;
            }
            check_eq!(
                "{round} writes: each page has its entry",
                pages(&ring.collect(usize::MAX)),
                want
            );
            check!("{round} writes: a reset takes them back", t.vm.reset_dirty_rings().is_ok());
        }
        finish(&mut vcpu)
    }

    /// Only slots with KVM_MEM_LOG_DIRTY_PAGES are in a ring, and only while they have it.
    #[kvm_test(writes, requires(cap::DIRTY_LOG_RING))]
    fn slots_without_logging_leave_no_entries(t: &mut OneVm) -> TestResult {
        let (mut vcpu, mut ring) = ringed(&mut t.vm, guest_fn!(writes), RING_BYTES, NR_PAGES)?;
        let hva = t.vm.mapping(0).hva();
        let set = |flags| t.vm.set_region(SLOT, flags, BASE, NR_PAGES * PAGE, hva);
        set(0).ioctl("switch logging off")?;
        write_pages(&mut vcpu, 0, 3)?;
        check_eq!("writes with logging off are not in the ring", ring.filled(), []);
        set(KVM_MEM_LOG_DIRTY_PAGES).ioctl("switch logging on")?;
        write_pages(&mut vcpu, 1, 2)?;
        check_eq!("writes with logging on again are in the ring", pages(&ring.filled()), [1]);

        t.vm.set_region(SLOT, 0, 0, 0, 0).ioctl("delete the slot")?;
        ring.collect(usize::MAX);
        check_eq!("entries of a deleted slot are taken back", t.vm.reset_dirty_rings(), Ok(1));
        finish(&mut vcpu)
    }

    /// A page is in the ring of the vCPU that wrote it; a reset is for the rings of all.
    #[kvm_test(writes, requires(cap::DIRTY_LOG_RING))]
    fn every_vcpu_has_its_own_ring(t: &mut OneVm) -> TestResult {
        let (mut first, mut first_ring) =
            ringed(&mut t.vm, guest_fn!(writes), RING_BYTES, NR_PAGES)?;
        let (mut second, mut second_ring) =
            ringed_vcpu(&mut t.vm, 1, guest_fn!(second_writes), RING_BYTES)?;
        write_pages(&mut first, 1, 2)?;
        check_eq!("the first vCPU's write is in its ring", pages(&first_ring.filled()), [1]);
        check_eq!("the first vCPU's write is not in the second's ring", second_ring.filled(), []);
        write_pages(&mut second, 2, 5)?;
        check_eq!(
            "the second vCPU's writes are in its ring",
            pages(&second_ring.filled()),
            [2, 3, 4]
        );
        check_eq!(
            "the second vCPU's writes are not in the first's ring",
            pages(&first_ring.filled()),
            [1]
        );

        second_ring.collect(usize::MAX);
        check_eq!("a reset counts the entries of one ring", t.vm.reset_dirty_rings(), Ok(3));
        write_pages(&mut second, 6, 7)?;
        first_ring.collect(usize::MAX);
        second_ring.collect(usize::MAX);
        check_eq!("a reset counts the entries of both rings", t.vm.reset_dirty_rings(), Ok(2));
        write_pages(&mut first, 6, 7)?;
        check_eq!("a page may move to the other vCPU's ring", pages(&first_ring.filled()), [6]);
        finish(&mut second)?;
        finish(&mut first)
    }

    /// Collects and resets until the guest has written all its pages. Returns the full exits, and
    /// every page reported.
    fn run_through_full_rings(
        vm: &Vm,
        vcpu: &mut Vcpu,
        ring: &mut DirtyRing,
    ) -> TestResult<(u64, Vec<u64>)> {
        let (mut full_exits, mut seen) = (0, Vec::new());
        while let Some(stop) = vcpu.run_until_exit()? {
            check_eq!(
                "the exit of a full ring is KVM_EXIT_DIRTY_RING_FULL",
                stop.exit(),
                Exit::DirtyRingFull
            );
            full_exits += 1;
            if full_exits == 1 {
                let before = ring.filled().len();
                let Some(again) = vcpu.run_until_exit()? else {
                    fail!("the guest went on with a full ring");
                };
                let again = again.exit();
                check_eq!(
                    "entering again with a full ring exits again",
                    again,
                    Exit::DirtyRingFull
                );
                check_eq!("KVM_RUN with a full ring adds no entry", ring.filled().len(), before);
            }
            let entries = ring.collect(usize::MAX);
            check!("a full ring has entries", !entries.is_empty());
            check!(
                "a full ring has room for what KVM may yet write itself",
                entries.len() + MOST_WRITTEN_AT_ONCE <= ring.entries(),
                "{} entries of {}",
                entries.len(),
                ring.entries()
            );
            seen.extend(pages(&entries));
            let taken_back = vm.reset_dirty_rings();
            check_eq!("a reset takes back the full ring", taken_back, Ok(entries.len() as i32));
        }
        seen.extend(pages(&ring.collect(usize::MAX)));
        Ok((full_exits, seen))
    }

    /// A ring that cannot take more entries ends KVM_RUN with KVM_EXIT_DIRTY_RING_FULL; once entries
    /// were taken back, the guest goes on, and no write is lost.
    #[kvm_test(writes_many, requires(cap::DIRTY_LOG_RING))]
    fn full_ring_exits_and_resumes(t: &mut OneVm) -> TestResult {
        // Small, and still more than hardware with a page-modification log keeps back.
        const SMALL_BYTES: u64 = 16 << 10;
        const MANY_PAGES: u64 = 2 * SMALL_BYTES / ENTRY_BYTES;
        enable(&t.vm, KVM_CAP_DIRTY_LOG_RING, SMALL_BYTES).ioctl("KVM_ENABLE_CAP")?;
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, MANY_PAGES * PAGE)?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(writes_many))?;
        vcpu.set_args(&[MANY_PAGES]);
        let mut ring = DirtyRing::map(&vcpu, SMALL_BYTES).ioctl("mmap of the dirty ring")?;
        let (full_exits, seen) = run_through_full_rings(&t.vm, &mut vcpu, &mut ring)?;
        check!("twice a ring's entries fill it at least twice", full_exits >= 2, "{full_exits}");
        let missing = (0..MANY_PAGES).filter(|page| !seen.contains(page)).count();
        check_eq!("every page was reported", missing, 0);
        check!("the ring has wrapped around", ring.next() > ring.entries());
        check!(
            "every write reached memory",
            (0..MANY_PAGES).all(|p| t.vm.mapping(0).read_u64((p * PAGE) as usize) == p + 1)
        );
        Ok(())
    }

    /// A VM with rings and no bitmap beside them refuses the bitmap's ioctls.
    #[kvm_test(requires(cap::DIRTY_LOG_RING))]
    fn bitmap_ioctls_are_refused_with_rings(t: &mut OneVm) -> TestResult {
        enable(&t.vm, KVM_CAP_DIRTY_LOG_RING, RING_BYTES).ioctl("KVM_ENABLE_CAP")?;
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, NR_PAGES * PAGE)?;
        let get = t.vm.dirty_pages(SLOT, NR_PAGES);
        check_eq!("KVM_GET_DIRTY_LOG fails with ENXIO beside rings", get, Err(Errno::ENXIO));
        let clear = t.vm.clear_dirty_log(SLOT, 0, NR_PAGES as u32, &[0, 0]);
        check_eq!("KVM_CLEAR_DIRTY_LOG fails with ENXIO beside rings", clear, Err(Errno::ENXIO));
        Ok(())
    }

    /// KVM_CAP_DIRTY_LOG_RING_ACQ_REL is the same ring, for userspace that orders its accesses.
    #[kvm_test(writes, requires(host::SMALL_SLOTS, cap::DIRTY_LOG_RING_ACQ_REL))]
    fn acquire_release_ring_logs_writes(t: &mut OneVm) -> TestResult {
        let max = t.vm.check_extension(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) as u64;
        check!("the largest ring size is a power of two", max.is_power_of_two(), "{max:#x}");
        let set = |bytes| enable(&t.vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, bytes);
        check_eq!("a ring of 0 bytes is EINVAL", set(0), Err(Errno::EINVAL));
        check_eq!("a ring of 64 KiB is accepted", set(RING_BYTES), Ok(()));
        check_eq!("a second ring size is EINVAL", set(RING_BYTES * 2), Err(Errno::EINVAL));
        t.vm.add_memory(SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, NR_PAGES * PAGE)?;
        let (mut vcpu, mut ring) = ringed_vcpu(&mut t.vm, 0, guest_fn!(writes), RING_BYTES)?;
        write_pages(&mut vcpu, 98, 100)?;
        check_eq!(
            "written pages are entries of the ring",
            pages(&ring.collect(usize::MAX)),
            [98, 99]
        );
        check_eq!("a reset takes back the written pages", t.vm.reset_dirty_rings(), Ok(2));
        finish(&mut vcpu)
    }
}
