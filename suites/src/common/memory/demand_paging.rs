//! Memory that userspace supplies page by page while vCPUs wait for it (userfaultfd(2)): each page is
//! asked for and holds what was supplied. Options (docs/results.md) say how much and how.
use crate::prelude::*;

const PAGE: u64 = layout::PAGE_SIZE;
const READY: u64 = 1;

const fn content(page: u64) -> u64 {
    0x6161_0000_0000_0000 | page
}

/// Reads its pages once. Answers with how many were wrong, and the first of them.
#[guest]
fn reads_pages(g: &mut Guest) {
    let [gpa, pages, first_page] = [0, 1, 2].map(|i| g.arg(i));
    g.sync(READY, &[]);
    let (mut wrong, mut first) = (0, 0);
    for page in (0..pages).rev() {
        if peek::<u64>(gpa + page * PAGE) != content(first_page + page) {
            (wrong, first) = (wrong + 1, page);
        }
    }
    g.sync(READY, &[wrong, first]);
}

#[host]
mod host {
    use super::*;
    use std::{sync::Barrier as HostBarrier, thread, time::Duration};
    use vm::perf::{BYTES, OVERLAP, TestOption, Times, VCPUS};
    use vm::{Backing, FaultMode, Userfault, shared_twins};

    const SLOT: u32 = 1;

    const READERS: TestOption = TestOption::new("readers", "threads that resolve faults");
    const DELAY_US: TestOption =
        TestOption::new("delay_us", "microseconds that a fault waits before it is resolved");

    /// What [`Plan`] reads.
    const PLAN: [TestOption; 5] = [VCPUS, BYTES, OVERLAP, READERS, DELAY_US];

    struct Plan {
        vcpus: u64,
        pages: u64,
        overlap: bool,
        readers: u64,
        delay: Duration,
    }

    impl Plan {
        fn read(bytes: u64, readers: u64) -> TestResult<Self> {
            let plan = Self {
                vcpus: VCPUS.count(2)?,
                pages: BYTES.bytes(bytes)? / PAGE,
                overlap: OVERLAP.flag(false)?,
                readers: READERS.count(readers)?,
                delay: Duration::from_micros(DELAY_US.number(0)?),
            };
            if plan.all_pages() * PAGE > (3 << 30) - layout::FREE || plan.vcpus > layout::MAX_VCPUS
            {
                return Err(Failure::Error(
                    "more vCPUs or memory than guests of this suite have".into(),
                ));
            }
            Ok(plan)
        }

        fn all_pages(&self) -> u64 {
            if self.overlap { self.pages } else { self.pages * self.vcpus }
        }
    }

    /// Resolves faults until it is told to stop; gives how many it resolved.
    fn resolve(
        fault: &Userfault,
        memory: &Mapping,
        mode: FaultMode,
        delay: Duration,
        stop: &Event,
    ) -> TestResult<u64> {
        let mut resolved = 0;
        let mut bytes = [0; PAGE as usize];
        while let Some(address) = fault.next(stop)? {
            let address = address & !(PAGE - 1);
            let offset = address.wrapping_sub(memory.hva());
            check!(
                "every fault lies in the slot's memory",
                offset < memory.len() as u64,
                "{address:#x}"
            );
            if !delay.is_zero() {
                thread::sleep(delay);
            }
            let result = match mode {
                FaultMode::Missing => {
                    bytes[..8].copy_from_slice(&content(offset / PAGE).to_ne_bytes());
                    fault.copy(address, &bytes)
                }
                FaultMode::Minor => fault.go_on(address, PAGE),
            };
            match result {
                Ok(()) => resolved += 1,
                // Two vCPUs wanted it; the other one's reader was quicker.
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(Failure::Error(format!("cannot resolve a fault: {e}"))),
            }
        }
        Ok(resolved)
    }

    fn page_in(t: &mut HostOnly, mode: FaultMode, plan: &Plan) -> TestResult {
        let mut vm = Vm::new(&t.setup.config)?;
        let len = (plan.all_pages() * PAGE) as usize;
        let fault = Userfault::new(mode)?;
        let (memory, _twin) = match mode {
            FaultMode::Missing => (Backing::Anonymous.map(len)?, None),
            FaultMode::Minor => {
                let [memory, twin] = shared_twins(len)?;
                for page in 0..plan.all_pages() {
                    twin.write((page * PAGE) as usize, &content(page).to_ne_bytes());
                }
                (memory, Some(twin))
            }
        };
        fault.register(&memory, mode)?;
        vm.set_region(SLOT, 0, layout::FREE, len as u64, memory.hva())
            .ioctl("KVM_SET_USER_MEMORY_REGION")?;
        let mut vcpus = Vec::new();
        for index in 0..plan.vcpus {
            let mut vcpu = vm.add_vcpu(index as u32, guest_fn!(reads_pages))?;
            let first = if plan.overlap { 0 } else { index * plan.pages };
            vcpu.set_args(&[layout::FREE + first * PAGE, plan.pages, first]);
            vcpu.run_until_sync(READY)?;
            vcpus.push(vcpu);
        }
        let (stop, fault, memory) = (&Event::new()?, &fault, &memory);
        let start_line = &HostBarrier::new(vcpus.len() + 1);
        let mut times = Times::new();
        let resolved = together(|threads| {
            let resolver = || resolve(fault, memory, mode, plan.delay, stop);
            let readers: Vec<_> = (0..plan.readers).map(|_| threads.spawn(resolver)).collect();
            let run = |vcpu: &mut Vcpu| -> TestResult {
                start_line.wait();
                let [wrong, first, ..] = vcpu.run_until_sync(READY)?;
                check!(
                    "each page holds what was supplied",
                    wrong == 0,
                    "{wrong} wrong, first {first}"
                );
                vcpu.run_until_done()
            };
            let vcpus: Vec<_> = vcpus.iter_mut().map(|vcpu| threads.run(vcpu, run)).collect();
            start_line.wait();
            let ended = times.measure(|| vcpus.into_iter().try_for_each(Thread::join));
            stop.signal(1)?;
            let resolved: TestResult<u64> = readers.into_iter().map(Thread::join).sum();
            ended.and(resolved)
        })?;
        check_eq!("each page is asked for exactly once", resolved, plan.all_pages());
        times.report("guest execution");
        times.report_rate("paging rate", "pages/s", plan.all_pages());
        times.report_rate("paging rate of a vCPU", "pages/s", plan.pages);
        Ok(())
    }

    /// A vCPU's access to memory that is not there waits until userspace has supplied the page, which is
    /// then what the guest reads; no page is asked for twice.
    #[kvm_test(requires(host::SMALL_SLOTS), vcpus = 2, options = PLAN, params = [
    missing: (FaultMode::Missing, false, 1),
    missing_two_readers: (FaultMode::Missing, false, 2),
    missing_overlap: (FaultMode::Missing, true, 2),
    minor: (FaultMode::Minor, false, 1),
    minor_overlap: (FaultMode::Minor, true, 1),
])]
    fn each_page_is_supplied_once(
        t: &mut HostOnly,
        (mode, overlap, readers): (FaultMode, bool, u64),
    ) -> TestResult {
        let plan = Plan { overlap, ..Plan::read(256 << 10, readers)? };
        page_in(t, mode, &plan)
    }

    /// The same, measured: by default 2 vCPUs with 32 MiB each.
    #[kvm_test(requires(host::SMALL_SLOTS), vcpus = 2, exclusive, groups("perf"), options = PLAN, params = [missing: FaultMode::Missing, minor: FaultMode::Minor])]
    fn measured(t: &mut HostOnly, mode: FaultMode) -> TestResult {
        page_in(t, mode, &Plan::read(32 << 20, 1)?)
    }
}
