//! How userspace makes a PMU (vcpu.rst 1, KVM_ARM_VCPU_PMU_V3_CTRL), and how many counters it gives.
use crate::prelude::*;
use pmu::pmcr;

#[guest]
fn idles(_: &mut Guest) {}

#[guest]
fn counts_what_it_has(g: &mut Guest) {
    let n = g.arg(0);
    check_eq!("the guest has the number of counters that userspace set", pmu::nr_counters(), n);
    pmu::reset();
    for (name, set) in
        [("PMCNTENSET", PMCNTENSET_EL0), ("PMINTENSET", PMINTENSET_EL1), ("PMOVSSET", PMOVSSET_EL0)]
    {
        set.write(!0);
        check_eq!("{name} has bits of the chosen counters only", set.read(), pmu::implemented());
    }
    pmu::reset();
    for i in 0..n {
        pmu::selected_counter(i).write(i + 1);
        check_eq!("counters below the chosen number exist", PMXEVCNTR_EL0.read(), i + 1);
    }
    PMSELR_EL0.write(n);
    let read = PMXEVCNTR_EL0.read_safe().map_err(|t| t.vector);
    check_eq!("the first counter above the chosen number is undefined", read, Err(vector::UNKNOWN));
    PMCR_EL0.write(pmcr::LC | pmcr::N.mask());
    check_eq!("the guest cannot change the number of counters", pmu::nr_counters(), n);
    PMCNTENSET_EL0.write(pmu::CYCLES);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    pmu::instructions(100);
    check!("the cycle counter exists with any number of counters", PMCCNTR_EL0.read() > 0);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_FILTER,
        KVM_ARM_VCPU_PMU_V3_INIT, KVM_ARM_VCPU_PMU_V3_IRQ, KVM_ARM_VCPU_PMU_V3_SET_PMU,
    };

    kvm_tests! { irqchip, features(KVM_ARM_VCPU_PMU_V3), requires(cap::ARM_PMU_V3) }

    /// The interrupt is a PPI or an SPI, told once, a PPI the same for all vCPUs and an SPI another for each;
    /// EINVAL, EBUSY and EFAULT tell what is wrong (vcpu.rst 1.1).
    #[kvm_test(idles)]
    fn interrupt_is_set_once_and_for_all(t: &mut OneVm) -> TestResult {
        let first = t.add_vcpu(0)?;
        let second = t.add_vcpu(1)?;
        check!(
            "the PMU's interrupt attribute exists",
            first.has_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_IRQ)
        );
        for (what, intid) in
            [("an SGI", 0), ("the last SGI", 15), ("beyond SPIs", 1020), ("-1", u32::MAX)]
        {
            check_eq!(
                "the interrupt number of {what} is EINVAL",
                first.set_pmu_irq(intid),
                Err(Errno::EINVAL)
            );
        }
        let nowhere = first.set_attr_at(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_IRQ, 0);
        check_eq!("an interrupt number at address 0 is EFAULT", nowhere, Err(Errno::EFAULT));
        check_eq!("a PPI is accepted as interrupt", first.set_pmu_irq(pmu::INTID), Ok(()));
        check_eq!(
            "setting the interrupt again is EBUSY",
            first.set_pmu_irq(pmu::INTID),
            Err(Errno::EBUSY)
        );
        check_eq!(
            "another PPI for the second vCPU is EINVAL",
            second.set_pmu_irq(pmu::INTID + 1),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "the same PPI for the second vCPU is accepted",
            second.set_pmu_irq(pmu::INTID),
            Ok(())
        );
        Ok(())
    }

    /// SPIs: one for each vCPU.
    #[kvm_test(idles)]
    fn spis_are_not_shared(t: &mut OneVm) -> TestResult {
        let first = t.add_vcpu(0)?;
        let second = t.add_vcpu(1)?;
        check_eq!("an SPI is accepted as interrupt", first.set_pmu_irq(40), Ok(()));
        check_eq!(
            "the same SPI for another vCPU is EINVAL",
            second.set_pmu_irq(40),
            Err(Errno::EINVAL)
        );
        check_eq!("another SPI for another vCPU is accepted", second.set_pmu_irq(41), Ok(()));
        Ok(())
    }

    /// INIT comes after the interrupt controller's initialization and the interrupt's number, once (vcpu.rst
    /// 1.2).
    #[kvm_test(idles)]
    fn init_comes_last_and_once(t: &mut OneVm) -> TestResult {
        let mut vcpu = t.add_vcpu(0)?;
        check!(
            "the attribute INIT exists",
            vcpu.has_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT)
        );
        check_eq!(
            "INIT before the GIC's initialization is ENODEV",
            vcpu.init_pmu(),
            Err(Errno::ENODEV)
        );
        t.vm.state().gic()?.init()?;
        check_eq!("INIT without an interrupt is ENXIO", vcpu.init_pmu(), Err(Errno::ENXIO));
        check_eq!("an interrupt before INIT is accepted", vcpu.set_pmu_irq(pmu::INTID), Ok(()));
        check_eq!("INIT with an interrupt is accepted", vcpu.init_pmu(), Ok(()));
        check_eq!("a second INIT is EBUSY", vcpu.init_pmu(), Err(Errno::EBUSY));
        check_eq!(
            "an interrupt after INIT is EBUSY",
            vcpu.set_pmu_irq(pmu::INTID),
            Err(Errno::EBUSY)
        );
        vcpu.run_until_done()
    }

    /// A PMU that is not initialized keeps its vCPU from running.
    #[kvm_test(idles)]
    fn running_without_init_is_refused(t: &mut OneVm) -> TestResult {
        let mut vcpu = t.add_vcpu(0)?;
        let refused = Exit::RunFailed { errno: Errno::EINVAL as i32 };
        check_eq!("KVM_RUN without an interrupt is EINVAL", vcpu.run_once()?, refused);
        Ok(())
    }

    /// An interrupt that another device of the vCPU has is EEXIST (vcpu.rst 1.2).
    #[kvm_test(idles)]
    fn interrupt_of_another_device_is_refused(t: &mut OneVm) -> TestResult {
        let mut vcpu = t.add_vcpu(0)?;
        t.vm.state().gic()?.init()?;
        check_eq!(
            "the virtual timer's interrupt number is accepted",
            vcpu.set_pmu_irq(timer::VIRTUAL.intid),
            Ok(())
        );
        // Whoever comes second is refused: the timers claim their interrupts at the first KVM_RUN.
        let (refused, how) = match vcpu.init_pmu() {
            Ok(()) => {
                let run = vcpu.run_once()?;
                (matches!(run, Exit::RunFailed { .. }), format!("KVM_RUN: {run:?}"))
            }
            Err(errno) => (errno == Errno::EEXIST, format!("INIT: {errno}")),
        };
        check!("INIT or KVM_RUN refuses an interrupt that has an owner", refused, "{how}");
        Ok(())
    }

    /// Without KVM_ARM_VCPU_PMU_V3 a vCPU has none of it: ENODEV, and ENXIO where it asks.
    #[kvm_test(idles, no_features(KVM_ARM_VCPU_PMU_V3))]
    fn vcpu_without_the_feature_has_no_pmu(t: &mut OneVcpu) -> TestResult {
        let vcpu = &t.vcpu;
        for (what, attr) in [
            ("IRQ", KVM_ARM_VCPU_PMU_V3_IRQ),
            ("INIT", KVM_ARM_VCPU_PMU_V3_INIT),
            ("FILTER", KVM_ARM_VCPU_PMU_V3_FILTER),
            ("SET_PMU", KVM_ARM_VCPU_PMU_V3_SET_PMU),
        ] {
            check!(
                "the attribute {what} does not exist without a PMU",
                !vcpu.has_attr(KVM_ARM_VCPU_PMU_V3_CTRL, attr)
            );
        }
        check_eq!(
            "setting the interrupt without a PMU is ENODEV",
            vcpu.set_pmu_irq(pmu::INTID),
            Err(Errno::ENODEV)
        );
        check_eq!("INIT without a PMU is ENODEV", vcpu.init_pmu(), Err(Errno::ENODEV));
        t.vcpu.run_until_done()
    }

    /// Without an in-kernel interrupt controller there is no interrupt to set, and INIT needs none.
    #[kvm_test(idles, no_irqchip)]
    fn pmu_works_without_a_gic(t: &mut OneVm) -> TestResult {
        let mut vcpu = t.add_vcpu(0)?;
        check_eq!(
            "setting the interrupt without a GIC is EINVAL",
            vcpu.set_pmu_irq(pmu::INTID),
            Err(Errno::EINVAL)
        );
        check_eq!("INIT without a GIC is accepted", vcpu.init_pmu(), Ok(()));
        vcpu.run_until_done()
    }

    /// An attribute that does not exist is ENXIO.
    #[kvm_test(idles)]
    fn unknown_attributes_are_refused(t: &mut OneVm) -> TestResult {
        let vcpu = t.add_vcpu(0)?;
        const UNKNOWN: u32 = 77;
        check!(
            "an unknown attribute does not exist",
            !vcpu.has_attr(KVM_ARM_VCPU_PMU_V3_CTRL, UNKNOWN)
        );
        let set = vcpu.set_attr(KVM_ARM_VCPU_PMU_V3_CTRL, UNKNOWN, 0_u32);
        check_eq!("setting an unknown attribute is ENXIO", set, Err(Errno::ENXIO));
        Ok(())
    }

    /// The perf type of the host's PMU: what KVM_ARM_VCPU_PMU_V3_SET_PMU takes.
    fn host_pmu_type() -> Option<u32> {
        let pmus = std::fs::read_dir("/sys/bus/event_source/devices").ok()?.flatten();
        let mut pmus = pmus.filter(|p| p.file_name().to_string_lossy().starts_with("armv8"));
        std::fs::read_to_string(pmus.next()?.path().join("type")).ok()?.trim().parse().ok()
    }

    /// SET_PMU selects one of the host's PMUs by its perf type; another type is ENXIO, after KVM_RUN it is
    /// EBUSY (vcpu.rst 1.4).
    #[kvm_test(idles)]
    fn userspace_selects_a_pmu(t: &mut OneVm) -> TestResult {
        let mut first = t.add_vcpu(0)?;
        let second = t.add_vcpu(1)?;
        let set = |vcpu: &Vcpu, pmu: u32| {
            vcpu.set_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_SET_PMU, pmu)
        };
        let has = first.has_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_SET_PMU);
        require!(has, "KVM_ARM_VCPU_PMU_V3_SET_PMU");
        let Some(pmu) = host_pmu_type() else { skip!("a PMU in /sys/bus/event_source/devices") };
        check_eq!("a type that no PMU has is ENXIO", set(&first, u32::MAX), Err(Errno::ENXIO));
        check_eq!("the type of another perf device is ENXIO", set(&first, 1), Err(Errno::ENXIO));
        let nowhere = first.set_attr_at(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_SET_PMU, 0);
        check_eq!("a type at address 0 is EFAULT", nowhere, Err(Errno::EFAULT));
        check_eq!("the host's PMU is accepted", set(&first, pmu), Ok(()));
        check_eq!("the host's PMU can be selected again", set(&first, pmu), Ok(()));
        t.vm.state().gic()?.init()?;
        for vcpu in [&first, &second] {
            vcpu.set_pmu_irq(pmu::INTID).ioctl("KVM_ARM_VCPU_PMU_V3_IRQ")?;
        }
        first.init_pmu().ioctl("KVM_ARM_VCPU_PMU_V3_INIT")?;
        check_eq!("selecting a PMU after INIT is EBUSY", set(&first, pmu), Err(Errno::EBUSY));
        first.run_until_done()?;
        check_eq!(
            "selecting a PMU after KVM_RUN is EBUSY for every vCPU",
            set(&second, pmu),
            Err(Errno::EBUSY)
        );
        Ok(())
    }

    /// SET_NR_COUNTERS sets PMCR_EL0.N, at most what the PMU has that SET_PMU selected, before INIT: EINVAL,
    /// EBUSY and EFAULT tell what is wrong (vcpu.rst 1.5).
    #[kvm_test(counts_what_it_has, params = [none: 0, one: 1, two: 2])]
    fn attribute_sets_the_number_of_counters(t: &mut OneVm, n: u32) -> TestResult {
        /// Newer than the bindings.
        const KVM_ARM_VCPU_PMU_V3_SET_NR_COUNTERS: u32 = 4;
        let mut vcpu = t.add_vcpu(0)?;
        let has = vcpu.has_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_SET_NR_COUNTERS);
        require!(has, "KVM_ARM_VCPU_PMU_V3_SET_NR_COUNTERS");
        let Some(pmu) = host_pmu_type() else { skip!("a PMU in /sys/bus/event_source/devices") };
        let set = |vcpu: &Vcpu, n: u32| {
            vcpu.set_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_SET_NR_COUNTERS, n)
        };
        let number = |vcpu: &Vcpu| vcpu.get_sysreg(&PMCR_EL0).map(|v| pmcr::N.get(v));
        vcpu.set_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_SET_PMU, pmu)
            .ioctl("KVM_ARM_VCPU_PMU_V3_SET_PMU")?;
        let all = number(&vcpu).ioctl("KVM_GET_ONE_REG of PMCR_EL0")?;
        require!(all > n.into(), "{} event counters", n + 1);
        for beyond in [all as u32 + 1, 32, u32::MAX] {
            let got = set(&vcpu, beyond);
            check!(
                "more counters than the PMU has is EINVAL",
                got == Err(Errno::EINVAL),
                "{beyond}: {got:?}"
            );
        }
        let attr = KVM_ARM_VCPU_PMU_V3_SET_NR_COUNTERS;
        let nowhere = vcpu.set_attr_at(KVM_ARM_VCPU_PMU_V3_CTRL, attr, 0);
        check_eq!("a number of counters at address 0 is EFAULT", nowhere, Err(Errno::EFAULT));
        check_eq!("the number of all counters can be set", set(&vcpu, all as u32), Ok(()));
        check_eq!("a smaller number of counters can be set", set(&vcpu, n), Ok(()));
        check_eq!("PMCR_EL0.N is the number that was set", number(&vcpu), Ok(n.into()));
        t.vm.state().gic()?.init()?;
        vcpu.set_pmu_irq(pmu::INTID).ioctl("KVM_ARM_VCPU_PMU_V3_IRQ")?;
        vcpu.init_pmu().ioctl("KVM_ARM_VCPU_PMU_V3_INIT")?;
        check_eq!("the number of counters after INIT is EBUSY", set(&vcpu, n), Err(Errno::EBUSY));
        vcpu.set_args(&[n.into()]);
        vcpu.run_until_done()
    }

    /// Before the first KVM_RUN userspace can lower PMCR_EL0.N; more than the host has is ignored, and so is
    /// a change after KVM_RUN (since Linux 6.8, without a capability).
    #[kvm_test(counts_what_it_has, pmu, params = [
    none: 0,
    one: 1,
    two: 2,
    one_less: 31,
])]
    fn userspace_sets_the_number_of_counters(t: &mut OneVcpu, wanted: u64) -> TestResult {
        let vcpu = &mut t.vcpu;
        let pmcr = vcpu.get_sysreg(&PMCR_EL0).ioctl("KVM_GET_ONE_REG of PMCR_EL0")?;
        let all = pmcr::N.get(pmcr);
        let n = if wanted == 31 { all.saturating_sub(1) } else { wanted };
        require!(n < all, "{} event counters", n + 1);
        let with = |n: u64| pmcr & !pmcr::N.mask() | pmcr::N.of(n);
        let number = |vcpu: &Vcpu| vcpu.get_sysreg(&PMCR_EL0).map(|v| pmcr::N.get(v));
        vcpu.set_sysreg(&PMCR_EL0, with(n)).ioctl("KVM_SET_ONE_REG of PMCR_EL0")?;
        require!(number(vcpu) == Ok(n), "a number of PMU counters that userspace sets");
        if all < 31 {
            vcpu.set_sysreg(&PMCR_EL0, with(all + 1)).ioctl("KVM_SET_ONE_REG of PMCR_EL0")?;
            check_eq!("a larger number than the host's is ignored", number(vcpu), Ok(n));
        }
        vcpu.set_args(&[n]);
        vcpu.run_until_done()?;
        vcpu.set_sysreg(&PMCR_EL0, with(all)).ioctl("KVM_SET_ONE_REG of PMCR_EL0")?;
        check_eq!("the number of counters stays after KVM_RUN", number(vcpu), Ok(n));
        Ok(())
    }
}
