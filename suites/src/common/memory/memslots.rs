//! What a guest sees of its memslots (api.rst 4.35): their memory where there is one, MMIO exits where
//! there is none.
use crate::prelude::*;

/// The guest has done what it was asked to, and waits.
pub const READY: u64 = 1;
const READ: u64 = 1;
const WRITE: u64 = 2;

/// Reads and writes guest-physical memory as the host half asks; the host's end is [`read`] and
/// [`write()`].
pub fn serve(g: &mut Guest) {
    let mut seen: u64 = 0;
    loop {
        let request = g.sync(READY, &[seen]);
        match request[0] {
            READ => seen = peek(request[1]),
            WRITE => poke(request[1], request[2]),
            _ => return,
        }
    }
}

#[guest]
fn accesses(g: &mut Guest) {
    serve(g);
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;

    kvm_tests! { requires(host::SMALL_SLOTS) }

    /// What an access came to.
    #[derive(Debug, PartialEq, Eq)]
    pub enum Access {
        /// A read of memory gave this value.
        Value(u64),
        /// A write went to memory.
        Written,
        /// A read ended in an MMIO exit, and got the value that userspace gave.
        MmioRead,
        /// A write ended in an MMIO exit with this value.
        MmioWrite(u64),
        /// Anything else.
        Other(String),
    }

    /// What userspace gives for MMIO reads.
    const MMIO: u64 = 0x5555_aaaa_1234_8765;

    /// Lets the guest read 8 bytes at `gpa`.
    pub fn read(vcpu: &mut Vcpu, gpa: u64) -> TestResult<Access> {
        vcpu.answer(&[READ, gpa]);
        match vcpu.run_until_next()? {
            Next::Sync(args) => Ok(Access::Value(args[1])),
            Next::Exit(mut stop) if stop.exit() == Exit::Mmio { gpa, len: 8, is_write: false } => {
                stop.set_data(&MMIO.to_ne_bytes());
                let got = vcpu.run_until_sync(READY)?[0];
                Ok(if got == MMIO { Access::MmioRead } else { Access::Other(format!("{got:#x}")) })
            }
            other => Ok(Access::Other(format!("{other:x?}"))),
        }
    }

    /// Lets the guest write 8 bytes at `gpa`.
    pub fn write(vcpu: &mut Vcpu, gpa: u64, value: u64) -> TestResult<Access> {
        vcpu.answer(&[WRITE, gpa, value]);
        match vcpu.run_until_next()? {
            Next::Sync(_) => Ok(Access::Written),
            Next::Exit(mut stop) if stop.exit() == Exit::Mmio { gpa, len: 8, is_write: true } => {
                let data = u64::from_ne_bytes(stop.data().try_into().unwrap_or_default());
                vcpu.run_until_sync(READY)?;
                Ok(Access::MmioWrite(data))
            }
            other => Ok(Access::Other(format!("{other:x?}"))),
        }
    }

    const SLOT: u32 = 1;
    const PAGE: u64 = layout::PAGE_SIZE;
    const GPA: u64 = layout::FREE;
    const OLD: u64 = 0x0123_4567_89ab_cdef;
    const NEW: u64 = 0xfedc_ba98_7654_3210;

    /// `pages` pages, each of which starts with `value` plus its number.
    pub fn pages(pages: u64, value: u64) -> TestResult<Mapping> {
        let mapping = Mapping::anonymous((pages * PAGE) as usize)?;
        for page in 0..pages {
            mapping.write((page * PAGE) as usize, &(value + page).to_ne_bytes());
        }
        Ok(mapping)
    }

    /// api.rst 4.35: a slot's memory is the guest's; a moved slot is at its new place and no longer at its
    /// old one; a deleted one (size 0) is gone, and its memory keeps what the guest wrote.
    #[kvm_test(accesses, moved)]
    fn slot_is_created_moved_and_deleted(t: &mut OneVcpu) -> TestResult {
        const ELSEWHERE: u64 = GPA + 16 * PAGE;
        let OneVcpu { vcpu, vm } = t;
        vcpu.run_until_sync(READY)?;
        check_eq!("a read without a slot is MMIO", read(vcpu, GPA)?, Access::MmioRead);
        check_eq!("a write without a slot is MMIO", write(vcpu, GPA, NEW)?, Access::MmioWrite(NEW));

        let memory = pages(2, OLD)?;
        let set = |gpa, size| vm.set_region(SLOT, 0, gpa, size, memory.hva());
        set(GPA, 2 * PAGE).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        check_eq!("the guest reads what the host wrote", read(vcpu, GPA)?, Access::Value(OLD));
        check_eq!(
            "the guest reads the slot's second page",
            read(vcpu, GPA + PAGE)?,
            Access::Value(OLD + 1)
        );
        check_eq!("a read in front of the slot is MMIO", read(vcpu, GPA - 8)?, Access::MmioRead);
        check_eq!("a read behind the slot is MMIO", read(vcpu, GPA + 2 * PAGE)?, Access::MmioRead);
        check_eq!("a write to the slot goes to memory", write(vcpu, GPA, NEW)?, Access::Written);
        check_eq!("the host reads what the guest wrote", memory.read_u64(0), NEW);

        set(ELSEWHERE, 2 * PAGE).ioctl("KVM_SET_USER_MEMORY_REGION (move)")?;
        check_eq!("a read of a moved slot's old place is MMIO", read(vcpu, GPA)?, Access::MmioRead);
        check_eq!(
            "a write to a moved slot's old place is MMIO",
            write(vcpu, GPA, OLD)?,
            Access::MmioWrite(OLD)
        );
        check_eq!(
            "a moved slot's first page is at its new place",
            read(vcpu, ELSEWHERE)?,
            Access::Value(NEW)
        );
        check_eq!(
            "a moved slot's last page is at its new place",
            read(vcpu, ELSEWHERE + PAGE)?,
            Access::Value(OLD + 1)
        );
        set(ELSEWHERE + PAGE, 2 * PAGE).ioctl("KVM_SET_USER_MEMORY_REGION (move by a page)")?;
        check_eq!(
            "a slot can be moved onto itself",
            read(vcpu, ELSEWHERE + PAGE)?,
            Access::Value(NEW)
        );
        check_eq!(
            "a slot moved onto itself leaves its old first page",
            read(vcpu, ELSEWHERE)?,
            Access::MmioRead
        );
        check_eq!(
            "a slot moved onto itself has its pages in order",
            read(vcpu, ELSEWHERE + 2 * PAGE)?,
            Access::Value(OLD + 1)
        );

        set(ELSEWHERE + PAGE, 0).ioctl("KVM_SET_USER_MEMORY_REGION (delete)")?;
        check_eq!(
            "a read of a deleted slot is MMIO",
            read(vcpu, ELSEWHERE + PAGE)?,
            Access::MmioRead
        );
        check_eq!(
            "a read of a deleted slot's last page is MMIO",
            read(vcpu, ELSEWHERE + 2 * PAGE)?,
            Access::MmioRead
        );
        check_eq!("a deleted slot's memory keeps its content", memory.read_u64(0), NEW);
        Ok(())
    }

    /// A slot that is added again over other memory shows that memory, on every vCPU: none goes on with a
    /// translation of the old one.
    #[kvm_test(accesses)]
    fn new_backing_shows_on_every_vcpu(t: &mut OneVcpu) -> TestResult {
        let OneVcpu { vcpu, vm } = t;
        let mut second = vm.add_vcpu(1, guest_fn!(accesses))?;
        let memories = [pages(1, OLD)?, pages(1, NEW)?];
        let set = |size, memory: &Mapping| {
            vm.set_region(SLOT, 0, GPA, size, memory.hva()).ioctl("KVM_SET_USER_MEMORY_REGION")
        };
        vcpu.run_until_sync(READY)?;
        second.run_until_sync(READY)?;
        for round in 0..8_u64 {
            let memory = &memories[round as usize % 2];
            let content = memory.read_u64(0);
            set(PAGE, memory)?;
            check_eq!(
                "the first vCPU reads the new memory",
                read(vcpu, GPA)?,
                Access::Value(content)
            );
            check_eq!(
                "the second vCPU reads the new memory",
                read(&mut second, GPA)?,
                Access::Value(content)
            );
            check_eq!(
                "the first vCPU writes to the new memory",
                write(vcpu, GPA, content ^ round)?,
                Access::Written
            );
            let seen = read(&mut second, GPA)?;
            check_eq!(
                "the second vCPU reads what the first wrote",
                seen,
                Access::Value(content ^ round)
            );
            check_eq!(
                "the host reads what the first vCPU wrote",
                memory.read_u64(0),
                content ^ round
            );
            set(0, memory)?;
            check_eq!(
                "the first vCPU's read of the deleted slot is MMIO",
                read(vcpu, GPA)?,
                Access::MmioRead
            );
            check_eq!(
                "the second vCPU's read of the deleted slot is MMIO",
                read(&mut second, GPA)?,
                Access::MmioRead
            );
        }
        Ok(())
    }

    /// api.rst 4.35 (KVM_MEM_READONLY): reads go to memory, writes end in KVM_EXIT_MMIO and leave the
    /// memory alone, also where the slot logs dirty pages.
    #[kvm_test(accesses, requires(cap::READONLY_MEM), params = [
    plain: bindings::KVM_MEM_READONLY,
    logged: bindings::KVM_MEM_READONLY | bindings::KVM_MEM_LOG_DIRTY_PAGES,
])]
    fn read_only_slot_reads_memory_and_exits_on_writes(t: &mut OneVcpu, flags: u32) -> TestResult {
        let OneVcpu { vcpu, vm } = t;
        let memory = pages(2, OLD)?;
        vm.set_region(SLOT, flags, GPA, 2 * PAGE, memory.hva())
            .ioctl("KVM_SET_USER_MEMORY_REGION")?;
        vcpu.run_until_sync(READY)?;
        check_eq!(
            "a write to a page not yet read is MMIO",
            write(vcpu, GPA + PAGE, NEW)?,
            Access::MmioWrite(NEW)
        );
        check_eq!(
            "the guest reads a read-only slot's memory",
            read(vcpu, GPA)?,
            Access::Value(OLD)
        );
        check_eq!(
            "a write to a page that was read is MMIO",
            write(vcpu, GPA, NEW)?,
            Access::MmioWrite(NEW)
        );
        check_eq!(
            "writes leave a read-only slot's memory unchanged",
            [memory.read_u64(0), memory.read_u64(PAGE as usize)],
            [OLD, OLD + 1]
        );
        check_eq!(
            "the guest reads the old value after its writes",
            read(vcpu, GPA)?,
            Access::Value(OLD)
        );
        memory.write(0, &NEW.to_ne_bytes());
        check_eq!(
            "the guest reads what the host writes to a read-only slot",
            read(vcpu, GPA)?,
            Access::Value(NEW)
        );

        vm.set_region(SLOT, flags, GPA, 0, memory.hva())
            .ioctl("KVM_SET_USER_MEMORY_REGION (delete)")?;
        vm.set_region(SLOT, 0, GPA, 2 * PAGE, memory.hva()).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        check_eq!(
            "a slot added again without KVM_MEM_READONLY is writable",
            write(vcpu, GPA, OLD)?,
            Access::Written
        );
        check_eq!(
            "the host reads what the guest wrote to the writable slot",
            memory.read_u64(0),
            OLD
        );
        Ok(())
    }

    /// Two slots over the same memory show the same bytes, and deleting one leaves the other.
    #[kvm_test(accesses)]
    fn slots_can_share_memory(t: &mut OneVcpu) -> TestResult {
        const TWIN: u64 = GPA + 64 * PAGE;
        let OneVcpu { vcpu, vm } = t;
        let memory = pages(1, OLD)?;
        vm.set_region(SLOT, 0, GPA, PAGE, memory.hva()).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        vm.set_region(SLOT + 1, 0, TWIN, PAGE, memory.hva()).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        vcpu.run_until_sync(READY)?;
        check_eq!(
            "a second slot on the same memory reads the same",
            read(vcpu, TWIN)?,
            Access::Value(OLD)
        );
        check_eq!(
            "a write through one of two slots is done",
            write(vcpu, GPA, NEW)?,
            Access::Written
        );
        check_eq!(
            "a write through one slot is read through the other",
            read(vcpu, TWIN)?,
            Access::Value(NEW)
        );
        vm.set_region(SLOT, 0, GPA, 0, 0).ioctl("KVM_SET_USER_MEMORY_REGION (delete)")?;
        check_eq!(
            "a deleted slot is gone although another has its memory",
            read(vcpu, GPA)?,
            Access::MmioRead
        );
        check_eq!(
            "deleting one slot leaves the other on the same memory",
            read(vcpu, TWIN)?,
            Access::Value(NEW)
        );
        Ok(())
    }

    /// An access across the border of two slots takes a part from each.
    #[kvm_test(accesses)]
    fn access_across_two_slots_takes_from_both(t: &mut OneVcpu) -> TestResult {
        const BORDER: u64 = GPA + PAGE;
        let OneVcpu { vcpu, vm } = t;
        // Not next to each other in the host's memory.
        let (low, high) = (pages(1, 0)?, pages(1, 0)?);
        low.write(PAGE as usize - 4, &[1, 2, 3, 4]);
        high.write(0, &[5, 6, 7, 8]);
        vm.set_region(SLOT, 0, GPA, PAGE, low.hva()).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        vm.set_region(SLOT + 1, 0, BORDER, PAGE, high.hva()).ioctl("KVM_SET_USER_MEMORY_REGION")?;
        vcpu.run_until_sync(READY)?;
        let whole = u64::from_ne_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        check_eq!(
            "a read across two slots takes half of each",
            read(vcpu, BORDER - 4)?,
            Access::Value(whole)
        );
        check_eq!(
            "a write across two slots is done",
            write(vcpu, BORDER - 4, !whole)?,
            Access::Written
        );
        let mut halves = [0; 8];
        low.read(PAGE as usize - 4, &mut halves[..4]);
        high.read(0, &mut halves[4..]);
        check_eq!(
            "a write across two slots puts half into each",
            u64::from_ne_bytes(halves),
            !whole
        );
        Ok(())
    }

    /// A slot over host memory that cannot be accessed is taken; KVM_RUN fails with EFAULT once the guest
    /// touches it (api.rst 5, KVM_EXIT_MEMORY_FAULT), never before.
    #[kvm_test(accesses)]
    fn inaccessible_backing_is_efault(t: &mut OneVcpu) -> TestResult {
        let OneVcpu { vcpu, vm } = t;
        // One page that can be accessed, and the guard page behind it.
        let memory = GuardedBuffer::new(&[0x77; PAGE as usize]);
        let taken = vm.set_region(SLOT, 0, GPA, 2 * PAGE, memory.address());
        // KVM/riscv64 looks at the mapping's permissions, which nothing forbids.
        require!(taken != Err(Errno::EPERM), "memslots over memory that cannot be accessed");
        taken.ioctl("KVM_SET_USER_MEMORY_REGION")?;
        vcpu.run_until_sync(READY)?;
        let good = u64::from_ne_bytes([0x77; 8]);
        check_eq!("the accessible page can be read", read(vcpu, GPA)?, Access::Value(good));
        vcpu.answer(&[READ, GPA + PAGE]);
        for attempt in ["first", "second"] {
            let exit = vcpu.run_once()?;
            let efault = Errno::EFAULT as i32;
            let faulted = match exit {
                Exit::RunFailed { errno } => errno == efault,
                Exit::MemoryFault { gpa, errno, .. } => {
                    errno == efault && gpa & !(PAGE - 1) == GPA + PAGE
                }
                _ => false,
            };
            if !check!(
                "the {attempt} KVM_RUN into the inaccessible page is EFAULT",
                faulted,
                "{exit:x?}"
            ) {
                return Ok(());
            }
        }
        let other = pages(1, NEW)?;
        vm.set_region(SLOT, 0, GPA, 0, 0).ioctl("KVM_SET_USER_MEMORY_REGION (delete)")?;
        vm.set_region(SLOT, 0, GPA + PAGE, PAGE, other.hva())
            .ioctl("KVM_SET_USER_MEMORY_REGION")?;
        let seen = vcpu.run_until_sync(READY)?[0];
        check_eq!("an access goes on once its memory is accessible", seen, NEW);
        Ok(())
    }
}
