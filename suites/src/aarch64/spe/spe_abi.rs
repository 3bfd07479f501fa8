//! SPE for guests (ARM ARM D16), by the interface of the series "KVM: arm64: Add Statistical Profiling
//! Extension (SPE) support". No released kernel has it: for a tree that does, `unittests.yaml` gives these
//! tests the numbers of its capability and feature (`parameters: { capability: …, feature: … }`).
use crate::prelude::*;
use defs::aarch64::spe::{INTID as SPE_INTID, PMBLIMITR_E, pmbidr, pmbsr, pmscr, pmsfcr, pmsidr};

/// The sample buffer.
const BUFFER: u64 = layout::SCRATCH;
const BUFFER_SIZE: u64 = 0x1_0000;

#[guest]
fn idles(_: &mut Guest) {}

#[guest]
fn introspects(_: &mut Guest) {
    let version = dfr0::PMSVER.get(ID_AA64DFR0_EL1.read());
    check!("PMSVer reports a version", (1..=5).contains(&version), "{version}");
    let buffer = PMBIDR_EL1.read();
    check_eq!("PMBIDR.P gives the buffer to EL1", pmbidr::P.get(buffer), 0);
    check!("PMBIDR.Align is 2 KiB at most", pmbidr::ALIGN.get(buffer) <= 11, "{buffer:#x}");
    let id = PMSIDR_EL1.read();
    check!(
        "PMSIDR.CountSize is 12 or 16 bits",
        matches!(pmsidr::COUNT_SIZE.get(id), 2 | 3),
        "{id:#x}"
    );
    check!(
        "PMSIDR.MaxSize is 16 to 2048 bytes",
        (4..=11).contains(&pmsidr::MAX_SIZE.get(id)),
        "{id:#x}"
    );
    check!(
        "PMSIDR.Interval is a defined value",
        pmsidr::INTERVAL.get(id) <= 8 && pmsidr::INTERVAL.get(id) != 1,
        "{id:#x}"
    );
    check_eq!("PMSIDR offers all filters", id & 7, 7);
    for register in [PMSCR_EL1, PMBLIMITR_EL1, PMBPTR_EL1, PMBSR_EL1] {
        let name = register.name;
        check_eq!("{name} is 0 after reset", register.read(), 0);
    }
}

/// Samples from `start` on until `limit`, with the smallest interval that is allowed.
fn start(start: u64, limit: u64) {
    const INTERVALS: [u64; 9] = [256, 0, 512, 768, 1024, 1536, 2048, 3072, 4096];
    let interval = INTERVALS[pmsidr::INTERVAL.get(PMSIDR_EL1.read()).min(8) as usize];
    PMSFCR_EL1.write(pmsfcr::FT | pmsfcr::B | pmsfcr::LD | pmsfcr::ST);
    PMSIRR_EL1.write((interval + 1) & !0xff);
    PMBPTR_EL1.write(start);
    PMBLIMITR_EL1.write(limit | PMBLIMITR_E);
    PMBSR_EL1.write(0);
    PMSICR_EL1.write(0);
    PMSCR_EL1.write(pmscr::E1SPE | pmscr::PA | pmscr::TS);
}

fn stop() {
    PMSCR_EL1.write(0);
    let _ = psb_csync_safe();
    dsb();
    PMBLIMITR_EL1.write(0);
}

/// Does work until the buffer management interrupt comes, and gives PMBSR_EL1 as its handler saw it.
fn interrupt(work: impl Fn()) -> u64 {
    let gic = GuestGic::detect();
    gic.enable();
    gic.set_priority(SPE_INTID, 0xa0);
    gic.set_group(SPE_INTID, u32::from(gic == GuestGic::V3));
    gic.set(gicd::ISENABLER, SPE_INTID);
    let status = AtomicU64::new(0);
    let handler = |_: &mut TrapFrame| {
        let acknowledged = gic.acknowledge();
        check_eq!("the acknowledged interrupt is the buffer's", acknowledged, SPE_INTID);
        status.store(PMBSR_EL1.read(), SeqCst);
        PMBSR_EL1.write(0);
        gic.end(acknowledged);
    };
    with_handler(vector::IRQ, handler, || {
        irq_enable();
        comes(|| {
            work();
            status.load(SeqCst) != 0
        });
        irq_disable();
    });
    status.load(SeqCst)
}

fn samples() {
    pmu::loads(1000, layout::SCRATCH);
}

#[guest]
fn fills_the_buffer(_: &mut Guest) {
    start(BUFFER, BUFFER + BUFFER_SIZE);
    let advanced = comes(|| {
        samples();
        let _ = psb_csync_safe();
        dsb();
        PMBPTR_EL1.read() > BUFFER
    });
    stop();
    check!("sampling advances the pointer PMBPTR_EL1", advanced);
    check_eq!("sampling raises no event of the buffer", PMBSR_EL1.read() & pmbsr::S, 0);
    let written = (BUFFER..BUFFER + 64).step_by(8).any(|a| peek::<u64>(a) != 0);
    check!("records are written to the buffer", written);

    start(BUFFER, BUFFER + layout::PAGE_SIZE);
    let status = interrupt(samples);
    stop();
    check_eq!(
        "a full buffer interrupts with its status",
        status & (pmbsr::S | pmbsr::BSC),
        pmbsr::S | pmbsr::BUFFER_FULL
    );
}

#[guest]
fn serves_the_interrupt(_: &mut Guest) {
    let value = pmbsr::S | 0x5555 & pmbsr::WRITABLE;
    let raised = AtomicU64::new(0);
    let status = interrupt(|| {
        if raised.fetch_add(1, SeqCst) == 0 {
            PMBSR_EL1.write(value);
        }
    });
    check_eq!("PMBSR.S written by software interrupts with what was written", status, value);
}

#[guest]
fn faults(_: &mut Guest) {
    const UNMAPPED: u64 = layout::FREE;
    mmu::unmap(UNMAPPED, mmu::Size::Large);
    start(UNMAPPED, UNMAPPED + BUFFER_SIZE);
    let status = interrupt(samples);
    stop();
    check_eq!(
        "an unmapped buffer interrupts as a fault of stage 1",
        pmbsr::EC.get(status),
        pmbsr::EC_STAGE_1
    );
    check_eq!("a fault of the buffer sets PMBSR.S", status & pmbsr::S, pmbsr::S);
    const NO_MEMORY: u64 = layout::FREE + (1 << 21);
    start(NO_MEMORY, NO_MEMORY + BUFFER_SIZE);
    let status = interrupt(samples);
    stop();
    check_eq!(
        "a buffer without memory interrupts as an external abort",
        status & (pmbsr::S | pmbsr::EA),
        pmbsr::S | pmbsr::EA
    );
}

#[host]
mod host {
    use super::*;
    use vm::arch::spe::{KVM_ARM_VCPU_SPE_CTRL, KVM_ARM_VCPU_SPE_INIT, KVM_ARM_VCPU_SPE_IRQ};
    use vm::perf::TestOption;

    kvm_tests! { irqchip, options = NUMBERS }

    /// The numbers that the tree's interface has, if the host has one.
    const NUMBERS: [TestOption; 2] = [
        TestOption::new("capability", "number of KVM_CAP_ARM_SPE"),
        TestOption::new("feature", "number of KVM_ARM_VCPU_SPE"),
    ];

    fn vcpu_with_spe(t: &mut OneVm) -> TestResult<Vcpu> {
        let number = |option: TestOption| -> TestResult<Option<u32>> {
            Ok(option.given()?.and_then(|value| value.parse().ok()))
        };
        let [capability, feature] = NUMBERS;
        let (Some(capability), Some(feature)) = (number(capability)?, number(feature)?) else {
            skip!("KVM_CAP_ARM_SPE");
        };
        require!(t.vm.check_extension(capability) > 0, "KVM_CAP_ARM_SPE");
        t.vm.features_mut().add(feature);
        t.add_vcpu(0)
    }

    /// The same, ready to run: interrupt and SPE initialized, memory locked.
    fn ready_vcpu(t: &mut OneVm) -> TestResult<Vcpu> {
        let vcpu = vcpu_with_spe(t)?;
        t.vm.state().gic()?.init()?;
        set_irq(&vcpu, SPE_INTID).ioctl("KVM_ARM_VCPU_SPE_IRQ")?;
        init(&vcpu).ioctl("KVM_ARM_VCPU_SPE_INIT")?;
        t.vm.lock_ram()?;
        Ok(vcpu)
    }

    fn set_irq(vcpu: &Vcpu, intid: u32) -> Result<(), Errno> {
        vcpu.set_attr(KVM_ARM_VCPU_SPE_CTRL, KVM_ARM_VCPU_SPE_IRQ, intid)
    }

    fn init(vcpu: &Vcpu) -> Result<(), Errno> {
        vcpu.set_attr_at(KVM_ARM_VCPU_SPE_CTRL, KVM_ARM_VCPU_SPE_INIT, 0)
    }

    /// The interrupt is a PPI, the same for all vCPUs, told once; INIT comes behind it and behind the
    /// interrupt controller's initialization, once.
    #[kvm_test(idles)]
    fn set_up_has_an_order(t: &mut OneVm) -> TestResult {
        let first = vcpu_with_spe(t)?;
        let second = t.add_vcpu(1)?;
        check!(
            "the SPE interrupt attribute exists",
            first.has_attr(KVM_ARM_VCPU_SPE_CTRL, KVM_ARM_VCPU_SPE_IRQ)
        );
        check!(
            "the SPE attribute INIT exists",
            first.has_attr(KVM_ARM_VCPU_SPE_CTRL, KVM_ARM_VCPU_SPE_INIT)
        );
        check_eq!("INIT before the interrupt is ENXIO", init(&first), Err(Errno::ENXIO));
        for intid in [0, 15, 32, u32::MAX] {
            check_eq!(
                "an INTID that is no PPI is EINVAL",
                set_irq(&first, intid),
                Err(Errno::EINVAL)
            );
        }
        let nowhere = first.set_attr_at(KVM_ARM_VCPU_SPE_CTRL, KVM_ARM_VCPU_SPE_IRQ, 0);
        check_eq!("an INTID at address 0 is EFAULT", nowhere, Err(Errno::EFAULT));
        check_eq!("a PPI is accepted as interrupt", set_irq(&first, SPE_INTID), Ok(()));
        check_eq!(
            "setting the interrupt again is EBUSY",
            set_irq(&first, SPE_INTID),
            Err(Errno::EBUSY)
        );
        check_eq!(
            "another PPI for the second vCPU is EINVAL",
            set_irq(&second, SPE_INTID + 1),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "the same PPI for the second vCPU is accepted",
            set_irq(&second, SPE_INTID),
            Ok(())
        );
        check_eq!(
            "INIT before the GIC's initialization is ENODEV",
            init(&first),
            Err(Errno::ENODEV)
        );
        t.vm.state().gic()?.init()?;
        check_eq!("INIT with an interrupt is accepted", init(&first), Ok(()));
        check_eq!("a second INIT is EBUSY", init(&first), Err(Errno::EBUSY));
        Ok(())
    }

    /// What PMSIDR_EL1 and PMBIDR_EL1 tell is within the architecture.
    #[kvm_test(introspects)]
    fn features_are_plausible(t: &mut OneVm) -> TestResult {
        ready_vcpu(t)?.run_until_done()
    }

    /// Records are written to the buffer; a full one interrupts.
    #[kvm_test(fills_the_buffer)]
    fn buffer_is_filled(t: &mut OneVm) -> TestResult {
        ready_vcpu(t)?.run_until_done()
    }

    /// The interrupt follows PMBSR_EL1.S.
    #[kvm_test(serves_the_interrupt)]
    fn interrupt_follows_the_service_bit(t: &mut OneVm) -> TestResult {
        ready_vcpu(t)?.run_until_done()
    }

    /// Faults of the buffer interrupt with their syndrome.
    #[kvm_test(faults)]
    fn faults_of_the_buffer_interrupt(t: &mut OneVm) -> TestResult {
        ready_vcpu(t)?.run_until_done()
    }
}
