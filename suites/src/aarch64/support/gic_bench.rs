//! What the tests of the interrupt controller share: VMs with a GIC of either version, and a guest that
//! tells what came.
//!
//! That an interrupt does not come is shown by one that must come later: the sentinel, of the lowest
//! priority, made pending behind it. Where no interrupt can come at all, an access to the distributor
//! takes its place: it is an exit, and KVM signals what is deliverable before it enters the guest again.
use core::fmt;

use crate::prelude::*;

/// The group whose interrupts are FIQs.
pub const GROUP0: u32 = 0;
/// The group whose interrupts are IRQs.
pub const GROUP1: u32 = 1;

/// A priority that leaves room above and below.
pub const PRIORITY: u8 = 0xa0;
/// The lowest that a priority mask of 0xff lets through where 5 bits are implemented.
pub const LOWEST_PRIORITY: u8 = 0xf0;

/// The interrupt that comes last: in no word of a bank with the interrupts under test, whose state a write
/// to the sentinel's word must not touch.
pub const SENTINEL: u32 = 66;
/// Rounds that are more than enough for an interrupt of this vCPU to be taken.
const PATIENCE: u64 = 100_000;
/// Interrupts that are noted; more than that, and the interrupt is disabled so that the test ends.
const ROOM: usize = 24;

/// An interrupt that was taken: as IRQ or as FIQ, and what the acknowledge returned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// By the IRQ vector.
    Irq(u32),
    /// By the FIQ vector.
    Fiq(u32),
    /// The sentinel did not come, so that nothing is proven.
    NoSentinel,
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Irq(intid) => write!(f, "IRQ {intid}"),
            Self::Fiq(intid) => write!(f, "FIQ {intid}"),
            Self::NoSentinel => f.write_str("no sentinel"),
        }
    }
}

/// What was taken, in order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    taken: [Option<Taken>; ROOM],
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.taken.iter().flatten()).finish()
    }
}

/// Nothing came.
pub const NOTHING: Seen = Seen { taken: [None; ROOM] };

/// These came, in this order.
pub fn came(these: &[Taken]) -> Seen {
    let mut seen = NOTHING;
    for (slot, taken) in seen.taken.iter_mut().zip(these) {
        *slot = Some(*taken);
    }
    seen
}

/// One IRQ came.
pub fn irq(intid: u32) -> Seen {
    came(&[Taken::Irq(intid)])
}

/// One FIQ came.
pub fn fiq(intid: u32) -> Seen {
    came(&[Taken::Fiq(intid)])
}

/// One interrupt came as those of `group` do.
pub fn one_of(group: u32, intid: u32) -> Seen {
    if group == GROUP0 { fiq(intid) } else { irq(intid) }
}

/// The distributor's enable bit of `group`.
pub fn enable_bit(group: u32) -> u32 {
    1 << group
}

/// Notes of two handlers, which cannot both hold what they change.
struct Notes {
    taken: [AtomicU64; ROOM],
    used: AtomicU64,
    sentinel: AtomicU64,
}

impl Notes {
    fn new() -> Self {
        Self {
            taken: [const { AtomicU64::new(0) }; ROOM],
            used: AtomicU64::new(0),
            sentinel: AtomicU64::new(0),
        }
    }

    /// Acknowledges, notes and ends what came on `line`.
    fn take(&self, gic: GuestGic, line: Line) {
        let acknowledged = gic.acknowledge_on(line);
        let intid = acknowledged & gic::INTID;
        // 1020 to 1023 are no interrupts; LPIs have more than ten bits.
        if (1020..gic::FIRST_LPI).contains(&acknowledged) && intid >= 1020 {
            return;
        }
        if acknowledged == SENTINEL {
            self.sentinel.store(1, SeqCst);
        } else if let Some(slot) = self.taken.get(self.used.fetch_add(1, SeqCst) as usize) {
            let fiq = u64::from(line == Line::Fiq) << 32;
            slot.store(1 << 33 | fiq | u64::from(acknowledged), SeqCst);
        } else {
            gic.set(gicd::ICENABLER, intid);
        }
        gic.end_on(line, acknowledged);
    }

    fn seen(&self) -> Seen {
        let mut seen = NOTHING;
        for (slot, note) in seen.taken.iter_mut().zip(&self.taken) {
            let note = note.load(SeqCst);
            *slot = match note >> 32 {
                0 => None,
                2 => Some(Taken::Irq(note as u32)),
                _ => Some(Taken::Fiq(note as u32)),
            };
        }
        seen
    }
}

/// Unmasks IRQ and FIQ around `body`, and takes and ends what comes.
fn with_notes(gic: GuestGic, notes: &Notes, body: impl FnOnce()) {
    with_handler(
        vector::IRQ,
        |_| notes.take(gic, Line::Irq),
        || {
            with_handler(
                vector::FIQ,
                |_| notes.take(gic, Line::Fiq),
                || {
                    irq_enable();
                    fiq_enable();
                    body();
                    fiq_disable();
                    irq_disable();
                },
            );
        },
    );
}

/// What comes while `body` runs and until the sentinel, which is of the group that comes as IRQ after
/// [`GuestGic::enable`], comes.
pub fn interrupts_during(gic: GuestGic, body: impl FnOnce()) -> Seen {
    interrupts_before(gic, gic.irq_group(), body)
}

/// What comes while `body` runs and until the sentinel, of `group`, comes.
pub fn interrupts_before(gic: GuestGic, group: u32, body: impl FnOnce()) -> Seen {
    let notes = Notes::new();
    prepare(gic, SENTINEL, group);
    gic.set_priority(SENTINEL, LOWEST_PRIORITY);
    with_notes(gic, &notes, || {
        body();
        gic.set(gicd::ISPENDR, SENTINEL);
        spin_for(PATIENCE, || notes.sentinel.load(SeqCst) != 0);
    });
    let mut seen = notes.seen();
    if notes.sentinel.load(SeqCst) == 0 {
        gic.set(gicd::ICPENDR, SENTINEL);
        if let Some(slot) = seen.taken.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(Taken::NoSentinel);
        }
    }
    seen
}

/// What comes while `body` runs and until KVM has entered the guest once more: for when no interrupt may
/// come at all, not even a sentinel.
pub fn interrupts_before_next_entry(gic: GuestGic, body: impl FnOnce()) -> Seen {
    let notes = Notes::new();
    with_notes(gic, &notes, || {
        body();
        for _ in 0..2 {
            let _ = gic.groups();
        }
        isb();
    });
    notes.seen()
}

/// Makes `intid` an edge-triggered, enabled interrupt of `group` for this vCPU (SGIs and PPIs are as
/// they are).
pub fn prepare(gic: GuestGic, intid: u32, group: u32) {
    gic.set_group(intid, group);
    gic.set_priority(intid, PRIORITY);
    if intid >= gic::FIRST_SPI {
        gic.set_edge(intid, true);
        gic.route(intid, cpu_id() as u32);
    }
    gic.set(gicd::ISENABLER, intid);
}

/// As [`prepare`], in the group whose interrupts are IRQs after [`GuestGic::enable`].
pub fn prepare_irq(gic: GuestGic, intid: u32) {
    prepare(gic, intid, gic.irq_group());
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;

    /// A VM's GIC and the vCPUs that run on it.
    #[derive(Debug)]
    pub struct Bench {
        /// The GIC.
        pub gic: Gic,
        /// Its vCPUs, by index.
        pub vcpus: Vec<Vcpu>,
    }

    impl Bench {
        /// One vCPU that runs the guest function of the attribute.
        pub fn new(t: &mut OneVm, version: GicVersion) -> TestResult<Self> {
            Self::with(t, version, &[], |_| Ok(()))
        }

        /// vCPU 0 runs the guest function of the attribute, the others run `others`.
        pub fn with_others(
            t: &mut OneVm,
            version: GicVersion,
            others: &[GuestFn],
        ) -> TestResult<Self> {
            Self::with(t, version, others, |_| Ok(()))
        }

        /// As above, with `prepare` called when the vCPUs are there and the GIC is not initialized yet.
        pub fn with(
            t: &mut OneVm,
            version: GicVersion,
            others: &[GuestFn],
            prepare: impl FnOnce(&Gic) -> TestResult,
        ) -> TestResult<Self> {
            let guest = t.setup.guest()?;
            Self::of(&mut t.vm, version, guest, others, prepare)
        }

        /// The same for any VM.
        pub fn of(
            vm: &mut Vm,
            version: GicVersion,
            guest: GuestFn,
            others: &[GuestFn],
            prepare: impl FnOnce(&Gic) -> TestResult,
        ) -> TestResult<Self> {
            let gic = Gic::create(vm, version)?;
            let guests = std::iter::once(&guest).chain(others);
            let vcpus = guests.zip(0..).map(|(guest, index)| vm.add_vcpu(index, *guest));
            let vcpus = vcpus.collect::<TestResult<Vec<_>>>()?;
            prepare(&gic)?;
            gic.init()?;
            Ok(Self { gic, vcpus })
        }

        /// vCPU 0.
        pub fn vcpu(&mut self) -> &mut Vcpu {
            &mut self.vcpus[0]
        }

        /// Arguments for every vCPU.
        pub fn set_args(&mut self, args: &[u64]) {
            self.vcpus.iter_mut().for_each(|vcpu| vcpu.set_args(args));
        }

        /// Runs vCPU 0 to the end of its guest function.
        pub fn run(&mut self) -> TestResult {
            self.vcpu().run_until_done()
        }

        /// Runs all vCPUs to the end of their guest functions. They start when the GIC has its place, which
        /// the first KVM_RUN gives it.
        pub fn run_all(mut self) -> TestResult {
            self.vcpu().complete_exit()?;
            self.run_all_at_once()
        }

        /// The same with the first KVM_RUN of every vCPU at a time.
        pub fn run_all_at_once(mut self) -> TestResult {
            run_together(&mut self.vcpus, Vcpu::run_until_done)?;
            Ok(())
        }
    }

    /// Runs the guest function of the attribute with `args` on vCPU 0 of a VM with that GIC.
    pub fn run_guest(t: &mut OneVm, version: GicVersion, args: &[u64]) -> TestResult {
        let mut bench = Bench::new(t, version)?;
        bench.set_args(args);
        bench.run()
    }
}
