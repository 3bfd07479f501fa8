//! Memory that the host holds in huge pages: whatever the slot's alignment, each page of the guest is
//! its own page of memory, and KVM maps by huge pages exactly where slot and memory agree
//! (Documentation/virt/kvm/x86/mmu.rst, "huge pages"; api.rst 4.35 on aligning the two addresses).
use crate::prelude::*;

const PAGE: u64 = layout::PAGE_SIZE;
const READY: u64 = 1;
const READ_IDS: u64 = 1;
const WRITE_IDS: u64 = 2;
const LOAD: u64 = 3;
const STORE: u64 = 4;

/// What page `id` holds in its first word, before the guest has written it.
const fn read_id(id: u64) -> u64 {
    0x1d1d_0000_0000_0000 | id
}

/// What the guest writes into the second word of page `id`.
const fn written_id(id: u64) -> u64 {
    0x3c3c_0000_0000_0000 | id
}

/// Obeys the host half. Answers with how many pages were wrong, and the first of them.
#[guest]
fn obeys(g: &mut Guest) {
    let (mut wrong, mut first) = (0, 0);
    loop {
        let [what, gpa, pages, id, ..] = g.sync(READY, &[wrong, first]);
        (wrong, first) = (0, 0);
        match what {
            READ_IDS => {
                for page in (0..pages).rev() {
                    if peek::<u64>(gpa + page * PAGE) != read_id(id + page) {
                        (wrong, first) = (wrong + 1, page);
                    }
                }
            }
            WRITE_IDS => {
                (0..pages).for_each(|page| poke(gpa + page * PAGE + 8, written_id(id + page)));
            }
            LOAD => first = peek(gpa),
            STORE => poke(gpa, id),
            _ => return,
        }
    }
}

#[host]
mod host {
    use super::*;
    use vm::bindings::KVM_MEM_LOG_DIRTY_PAGES;
    use vm::{Backing, huge_page_size};

    kvm_tests! { requires(host::SMALL_SLOTS) }

    /// Why some tests see what is done to memslots.
    const LOG: &str = "reads the dirty log, which no new memslot has";

    const SLOT: u32 = 1;
    const NEXT_SLOT: u32 = 2;
    /// Whole huge pages of a slot, beside what its misalignment cuts off.
    const HUGE_PAGES: u64 = 2;

    fn ask(vcpu: &mut Vcpu, what: u64, gpa: u64, pages: u64, id: u64) -> TestResult<[u64; 2]> {
        vcpu.answer(&[what, gpa, pages, id]);
        let [wrong, first, ..] = vcpu.run_until_sync(READY)?;
        Ok([wrong, first])
    }

    fn finish(vcpu: &mut Vcpu) -> TestResult {
        vcpu.answer(&[0]);
        vcpu.run_until_done()
    }

    fn huge() -> TestResult<u64> {
        let size = huge_page_size();
        require!(size.is_some(), "huge pages in the host");
        Ok(size.unwrap_or(0) as u64)
    }

    /// Memory of `backing` whose page `i` holds `read_id(first + i)`.
    fn numbered(backing: Backing, len: u64, first: u64) -> TestResult<Mapping> {
        let mapping = backing.map(len as usize)?;
        for page in 0..len / PAGE {
            mapping.write((page * PAGE) as usize, &read_id(first + page).to_ne_bytes());
        }
        Ok(mapping)
    }

    /// The first page whose second word is not what the guest wrote there.
    fn unwritten(mapping: &Mapping, pages: std::ops::Range<u64>) -> Option<u64> {
        let mut pages = pages;
        pages.find(|page| mapping.read_u64((page * PAGE + 8) as usize) != written_id(*page))
    }

    /// A slot and its memory at chosen distances, in pages, from a huge page's start.
    #[derive(Clone, Copy)]
    struct Placement {
        gpa_offset: u64,
        hva_offset: u64,
        pages: u64,
    }

    impl Placement {
        /// Every pair of aligned, one page off, one page short of the next.
        fn all(huge: u64) -> impl Iterator<Item = Self> {
            let offsets = [0, 1, huge / PAGE - 1];
            let pages = HUGE_PAGES * huge / PAGE;
            offsets.into_iter().flat_map(move |gpa_offset| {
                offsets.map(|hva_offset| Self { gpa_offset, hva_offset, pages })
            })
        }

        fn gpa(self) -> u64 {
            layout::FREE + self.gpa_offset * PAGE
        }

        fn set(self, vm: &Vm, flags: u32, memory: &Mapping) -> Result<(), Errno> {
            let hva = memory.hva() + self.hva_offset * PAGE;
            vm.set_region(SLOT, flags, self.gpa(), self.pages * PAGE, hva)
        }

        /// Huge pages by which the slot may be mapped: those that lie inside it, if the distance from a
        /// huge page's start is the same for the guest's and the host's addresses.
        fn legal(self, huge: u64) -> u64 {
            let in_huge = huge / PAGE;
            if self.gpa_offset % in_huge != self.hva_offset % in_huge {
                return 0;
            }
            (self.gpa_offset + self.pages) / in_huge - self.gpa_offset.div_ceil(in_huge)
        }
    }

    /// Each page of a slot is the page of memory at the same distance, for reads and for writes, in every
    /// combination of the two addresses' misalignments.
    #[kvm_test(obeys, params = [
    thp: Backing::Thp,
    hugetlb: Backing::Hugetlb,
    shared_hugetlb: Backing::MemfdHugetlb,
])]
    fn each_page_is_itself_whatever_the_alignment(t: &mut OneVcpu, backing: Backing) -> TestResult {
        let huge = huge()?;
        let memory = numbered(backing, (HUGE_PAGES + 2) * huge, 0)?;
        t.vcpu.run_until_sync(READY)?;
        for place in Placement::all(huge) {
            let Placement { gpa_offset, hva_offset, pages } = place;
            place.set(&t.vm, 0, &memory).ioctl("KVM_SET_USER_MEMORY_REGION")?;
            let (gpa, id) = (place.gpa(), hva_offset);
            let [wrong, first] = ask(&mut t.vcpu, READ_IDS, gpa, pages, id)?;
            check!(
                "GPA + {gpa_offset}, HVA + {hva_offset} pages: each page reads its own content",
                wrong == 0,
                "{wrong} pages wrong, the first is {first}"
            );
            ask(&mut t.vcpu, WRITE_IDS, gpa, pages, id)?;
            let lost = unwritten(&memory, id..id + pages);
            check!(
                "GPA + {gpa_offset}, HVA + {hva_offset} pages: each page takes its own write",
                lost.is_none(),
                "page {lost:?} of the memory was not written"
            );
            let outside = [id.checked_sub(1), Some(id + pages)];
            let touched = outside.into_iter().flatten().find(|page| {
                *page < memory.len() as u64 / PAGE && unwritten(&memory, *page..page + 1).is_none()
            });
            check_eq!(
                "GPA + {gpa_offset}, HVA + {hva_offset} pages: no page beside the slot is written",
                touched,
                None
            );
            t.vm.set_region(SLOT, 0, 0, 0, 0).ioctl("delete the slot")?;
            for page in 0..memory.len() as u64 / PAGE {
                memory.write((page * PAGE + 8) as usize, &[0; 8]);
            }
        }
        finish(&mut t.vcpu)
    }

    /// A page that the same translation tables map.
    const WARM_UP: u64 = layout::FREE + (512 << 20);

    /// KVM maps by a huge page exactly what lies inside the slot and has the same offset in both address
    /// spaces: never more, or pages would be wrong; not less, or the memory's size is for nothing.
    #[kvm_test(obeys, requires(cap::BINARY_STATS_FD), params = [
    small: Backing::Anonymous,
    thp: Backing::Thp,
    hugetlb: Backing::Hugetlb,
])]
    fn mappings_are_as_large_as_alignment_allows(t: &mut OneVcpu, backing: Backing) -> TestResult {
        let huge = huge()?;
        let sizes = |vm: &Vm| -> Option<[u64; 3]> {
            let [small, large, giant] =
                [vm.stat("pages_4k"), vm.stat("pages_2m"), vm.stat("pages_1g")];
            small.zip(large).zip(giant).map(|((small, large), giant)| [small, large, giant])
        };
        require!(sizes(&t.vm).is_some(), "the statistics pages_4k, pages_2m and pages_1g");
        let memory = numbered(backing, (HUGE_PAGES + 2) * huge, 0)?;
        if backing == Backing::Thp {
            let got = memory.huge_bytes();
            require!(got == memory.len() as u64, "transparent huge pages (the host gave too few)");
        }
        t.vm.add_memory(NEXT_SLOT, 0, WARM_UP, PAGE)?;
        t.vcpu.run_until_sync(READY)?;
        for place in Placement::all(huge) {
            let Placement { gpa_offset, hva_offset, pages } = place;
            place.set(&t.vm, 0, &memory).ioctl("KVM_SET_USER_MEMORY_REGION")?;
            // Maps what the guest needs to run, its translation tables too, so that only the slot is new.
            ask(&mut t.vcpu, WRITE_IDS, WARM_UP, 1, 0)?;
            let before = sizes(&t.vm).unwrap_or_default();
            ask(&mut t.vcpu, WRITE_IDS, place.gpa(), pages, hva_offset)?;
            let after = sizes(&t.vm).unwrap_or_default();
            let legal = if backing == Backing::Anonymous { 0 } else { place.legal(huge) };
            let [small, large, giant] = [0, 1, 2].map(|i| after[i] as i64 - before[i] as i64);
            check_eq!(
                "GPA + {gpa_offset}, HVA + {hva_offset} pages: as many huge mappings as are legal",
                large,
                legal as i64
            );
            check_eq!(
                "GPA + {gpa_offset}, HVA + {hva_offset} pages: the rest is mapped by small pages",
                small,
                (pages - legal * huge / PAGE) as i64
            );
            check_eq!(
                "GPA + {gpa_offset}, HVA + {hva_offset} pages: no mapping is larger than the slot",
                giant,
                0
            );
            t.vm.set_region(SLOT, 0, 0, 0, 0).ioctl("delete the slot")?;
            let gone = t.vm.stat("pages_2m").unwrap_or(0);
            check_eq!(
                "GPA + {gpa_offset}, HVA + {hva_offset} pages: deleting the slot unmaps it",
                gone,
                0
            );
        }
        finish(&mut t.vcpu)
    }

    /// The memory behind a slot is not the guest's, although a huge page of the host holds both.
    #[kvm_test(obeys, params = [thp: Backing::Thp, hugetlb: Backing::Hugetlb])]
    fn slot_ends_inside_a_huge_page(t: &mut OneVcpu, backing: Backing) -> TestResult {
        /// What userspace answers to MMIO reads.
        const MMIO: u64 = 0x4f4f_4f4f_0b0b_0b0b;
        let huge = huge()?;
        let in_huge = huge / PAGE;
        let memory = numbered(backing, 3 * huge, 0)?;
        t.vcpu.run_until_sync(READY)?;
        let sizes = [1, in_huge - 1, in_huge / 2, in_huge + 1, 2 * in_huge - 1];
        for (offset, pages) in [0, 1].into_iter().flat_map(|o| sizes.map(|pages| (o, pages))) {
            let place =
                Placement { gpa_offset: in_huge + offset, hva_offset: in_huge / 2 + offset, pages };
            for place in [place, Placement { hva_offset: offset, ..place }] {
                let aligned = if place.hva_offset == offset { "aligned" } else { "half off" };
                place.set(&t.vm, 0, &memory).ioctl("KVM_SET_USER_MEMORY_REGION")?;
                let [wrong, _] = ask(&mut t.vcpu, READ_IDS, place.gpa(), pages, place.hva_offset)?;
                check_eq!(
                    "{pages} pages from page {offset}, {aligned}: the slot holds its pages",
                    wrong,
                    0
                );
                for (side, gpa) in
                    [("behind", place.gpa() + pages * PAGE), ("before", place.gpa() - PAGE)]
                {
                    t.vcpu.answer(&[LOAD, gpa]);
                    let is_mmio = match t.vcpu.run_until_next()? {
                        Next::Exit(mut stop) => {
                            let exit = stop.exit();
                            let mmio = matches!(exit, Exit::Mmio { gpa: at, len: 8, is_write: false } if at == gpa);
                            if !mmio {
                                fail!("{exit:x?} instead of an MMIO read or a value");
                            }
                            stop.set_data(&MMIO.to_ne_bytes());
                            true
                        }
                        _ => false,
                    };
                    check!(
                        "{pages} pages from page {offset}, {aligned}: there is no memory {side} it",
                        is_mmio
                    );
                    if is_mmio {
                        let [_, value, ..] = t.vcpu.run_until_sync(READY)?;
                        check_eq!(
                            "a read beside the slot gives what userspace answers",
                            value,
                            MMIO
                        );
                    }
                }
                t.vm.set_region(SLOT, 0, 0, 0, 0).ioctl("delete the slot")?;
            }
        }
        finish(&mut t.vcpu)
    }

    /// Two slots that meet inside a huge page each give their own memory, in whatever order they are
    /// touched, and writes to one do not reach the other's.
    #[kvm_test(obeys, params = [thp: Backing::Thp, hugetlb: Backing::Hugetlb])]
    fn slots_meet_inside_a_huge_page(t: &mut OneVcpu, backing: Backing) -> TestResult {
        const OTHER_ID: u64 = 0x10_0000;
        let huge = huge()?;
        let in_huge = huge / PAGE;
        let (lower, upper) =
            (numbered(backing, 2 * huge, 0)?, numbered(backing, 2 * huge, OTHER_ID)?);
        let gpa = layout::FREE;
        t.vcpu.run_until_sync(READY)?;
        for border in [1, in_huge / 2, in_huge - 1] {
            // Both have their memory at the offset that a huge mapping would want.
            t.vm.set_region(SLOT, 0, gpa, border * PAGE, lower.hva())
                .ioctl("set the lower slot")?;
            let rest = 2 * in_huge - border;
            let (from, hva) = (gpa + border * PAGE, upper.hva() + border * PAGE);
            t.vm.set_region(NEXT_SLOT, 0, from, rest * PAGE, hva).ioctl("set the upper slot")?;
            for pass in ["first", "second"] {
                let [wrong, _] = ask(&mut t.vcpu, READ_IDS, from, rest, OTHER_ID + border)?;
                check_eq!(
                    "border at page {border}, {pass} pass: the upper slot reads its own content",
                    wrong,
                    0
                );
                let [wrong, _] = ask(&mut t.vcpu, READ_IDS, gpa, border, 0)?;
                check_eq!(
                    "border at page {border}, {pass} pass: the lower slot reads its own content",
                    wrong,
                    0
                );
            }
            ask(&mut t.vcpu, WRITE_IDS, gpa, border, 0)?;
            check_eq!(
                "border at page {border}: the lower slot can be written",
                unwritten(&lower, 0..border),
                None
            );
            let spilled = lower.read_u64((border * PAGE + 8) as usize);
            check_eq!("border at page {border}: no write crosses the border", spilled, 0);
            for slot in [SLOT, NEXT_SLOT] {
                t.vm.set_region(slot, 0, 0, 0, 0).ioctl("delete the slot")?;
            }
            (0..in_huge).for_each(|page| lower.write((page * PAGE + 8) as usize, &[0; 8]));
        }
        finish(&mut t.vcpu)
    }

    /// Dirty logging is by small pages whatever maps the slot (api.rst 4.8): what was a huge mapping is
    /// split, and the log has the written pages alone. Without logging, pages are what they were.
    #[kvm_test(obeys, sees(moved: LOG, shuffled: LOG, logged: LOG), params = [thp: Backing::Thp, hugetlb: Backing::Hugetlb])]
    fn dirty_log_tells_small_pages_of_huge_mappings(
        t: &mut OneVcpu,
        backing: Backing,
    ) -> TestResult {
        let huge = huge()?;
        let in_huge = huge / PAGE;
        let memory = numbered(backing, HUGE_PAGES * huge, 0)?;
        let place = Placement { gpa_offset: 0, hva_offset: 0, pages: HUGE_PAGES * in_huge };
        let (gpa, pages) = (place.gpa(), place.pages);
        place.set(&t.vm, 0, &memory).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        t.vcpu.run_until_sync(READY)?;
        ask(&mut t.vcpu, WRITE_IDS, gpa, pages, 0)?;
        for round in ["first", "second"] {
            place.set(&t.vm, KVM_MEM_LOG_DIRTY_PAGES, &memory).ioctl("switch logging on")?;
            let dirty = || t.vm.dirty_pages(SLOT, pages).ioctl("KVM_GET_DIRTY_LOG");
            check_eq!(
                "{round} time: writes from before are not logged",
                dirty()?,
                Vec::<u64>::new()
            );
            let written = [0, 7, in_huge - 1, in_huge];
            for page in written {
                ask(&mut t.vcpu, STORE, gpa + page * PAGE + 8, 1, page)?;
            }
            let dirty = || t.vm.dirty_pages(SLOT, pages).ioctl("KVM_GET_DIRTY_LOG");
            check_eq!("{round} time: exactly the written pages are logged", dirty()?, written);
            ask(&mut t.vcpu, STORE, gpa + 8, 1, 0)?;
            let dirty = || t.vm.dirty_pages(SLOT, pages).ioctl("KVM_GET_DIRTY_LOG");
            check_eq!("{round} time: a page written again is logged again", dirty()?, [0]);
            if let Some(large) = t.vm.stat("pages_2m") {
                check!(
                    "{round} time: written ranges are mapped by small pages",
                    large == 0,
                    "{large}"
                );
            }
            place.set(&t.vm, 0, &memory).ioctl("switch logging off")?;
            let [wrong, first] = ask(&mut t.vcpu, READ_IDS, gpa, pages, 0)?;
            check!(
                "{round} time: each page reads its own content without logging",
                wrong == 0,
                "page {first}"
            );
            ask(&mut t.vcpu, WRITE_IDS, gpa, pages, 0)?;
            let lost = unwritten(&memory, 0..pages);
            check_eq!("{round} time: each page can be written without logging", lost, None);
        }
        finish(&mut t.vcpu)
    }

    /// A slot that is logged from its start has never had a huge mapping to split: it gets none, and the log has
    /// each written page, also behind the first one of a huge page.
    #[kvm_test(obeys, sees(moved: LOG, shuffled: LOG, logged: LOG), params = [thp: Backing::Thp, hugetlb: Backing::Hugetlb])]
    fn slot_logged_from_its_start_has_small_pages(t: &mut OneVcpu, backing: Backing) -> TestResult {
        let huge = huge()?;
        let in_huge = huge / PAGE;
        let memory = numbered(backing, HUGE_PAGES * huge, 0)?;
        let place = Placement { gpa_offset: 0, hva_offset: 0, pages: HUGE_PAGES * in_huge };
        place.set(&t.vm, KVM_MEM_LOG_DIRTY_PAGES, &memory).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        t.vcpu.run_until_sync(READY)?;
        let written = [0, 1, in_huge - 1, in_huge, 2 * in_huge - 1];
        for page in written {
            ask(&mut t.vcpu, STORE, place.gpa() + page * PAGE + 8, 1, page)?;
        }
        let dirty = t.vm.dirty_pages(SLOT, place.pages).ioctl("KVM_GET_DIRTY_LOG")?;
        check_eq!("exactly the written pages are logged", dirty, written);
        if let Some(large) = t.vm.stat("pages_2m") {
            check_eq!("a logged slot has no huge mapping", large, 0);
        }
        finish(&mut t.vcpu)
    }

    /// Huge mappings come back when logging is switched off.
    #[kvm_test(obeys, requires(cap::BINARY_STATS_FD), sees(logged: "switches logging on and off"), params = [thp: Backing::Thp, hugetlb: Backing::Hugetlb])]
    fn huge_mappings_come_back_after_logging(t: &mut OneVcpu, backing: Backing) -> TestResult {
        let huge = huge()?;
        let memory = numbered(backing, HUGE_PAGES * huge, 0)?;
        if backing == Backing::Thp {
            let got = memory.huge_bytes();
            require!(got == memory.len() as u64, "transparent huge pages (the host gave too few)");
        }
        let pages = HUGE_PAGES * huge / PAGE;
        let place = Placement { gpa_offset: 0, hva_offset: 0, pages };
        place.set(&t.vm, 0, &memory).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        t.vcpu.run_until_sync(READY)?;
        let mut touch = |vm: &Vm, flags| -> TestResult<Option<u64>> {
            place.set(vm, flags, &memory).ioctl("KVM_SET_USER_MEMORY_REGION")?;
            ask(&mut t.vcpu, WRITE_IDS, place.gpa(), pages, 0)?;
            Ok(vm.stat("pages_2m"))
        };
        let before = touch(&t.vm, 0)?;
        require!(before.is_some(), "the statistic pages_2m");
        check_eq!("the slot is mapped by huge pages before logging", before, Some(HUGE_PAGES));
        check_eq!(
            "the slot has no huge mapping while it is logged",
            touch(&t.vm, KVM_MEM_LOG_DIRTY_PAGES)?,
            Some(0)
        );
        check_eq!(
            "the slot is mapped by huge pages after logging",
            touch(&t.vm, 0)?,
            Some(HUGE_PAGES)
        );
        finish(&mut t.vcpu)
    }
}
