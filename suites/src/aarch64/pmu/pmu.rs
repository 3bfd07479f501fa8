//! The virtual PMU: its registers, and what it says of itself (ARM ARM D13;
//! Documentation/virt/kvm/devices/vcpu.rst 1).
use crate::prelude::*;
use pmu::{COUNTERS, CYCLES, SELECT_CYCLES, TYPES, event, filter, implemented, nr_counters, pmcr};

#[guest]
fn reads_registers(_: &mut Guest) {
    pmu::reset();
    let all = implemented();
    check_eq!("PMCR.P and C read as zero", PMCR_EL0.read() & (pmcr::P | pmcr::C), 0);
    check_eq!("PMCR.E reads as zero when cleared", PMCR_EL0.read() & pmcr::E, 0);
    check_eq!("PMCR.LC keeps the value 1", PMCR_EL0.read() & pmcr::LC, pmcr::LC);
    let identity = PMCR_EL0.read() & !0xff;
    PMCR_EL0.write(!identity & !0xff | pmcr::LC);
    check_eq!("N, IDCODE and IMP of PMCR are read-only", PMCR_EL0.read(), identity | pmcr::LC);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    check_eq!("PMCR.E keeps the value 1", PMCR_EL0.read() & pmcr::E, pmcr::E);
    PMCR_EL0.write(pmcr::LC);
    for (name, set, clear) in [
        ("PMCNTENSET", PMCNTENSET_EL0, PMCNTENCLR_EL0),
        ("PMINTENSET", PMINTENSET_EL1, PMINTENCLR_EL1),
        ("PMOVSSET", PMOVSSET_EL0, PMOVSCLR_EL0),
    ] {
        check_eq!("{name} is zero when cleared", set.read(), 0);
        set.write(!0);
        check_eq!("{name} sets the bits of implemented counters only", set.read(), all);
        check_eq!("the clearing twin of {name} reads the same", clear.read(), all);
        set.write(0);
        check_eq!("writing zero to {name} clears nothing", set.read(), all);
        clear.write(CYCLES);
        check_eq!("{name} loses only the bits that are cleared", set.read(), all & !CYCLES);
        clear.write(!0);
        set.write(!all);
        check_eq!("bits of {name} without a counter ignore writes", set.read(), 0);
    }
    PMSELR_EL0.write(3);
    check_eq!("PMSELR keeps its selection", PMSELR_EL0.read(), 3);
    PMUSERENR_EL0.write(!0);
    check_eq!(
        "PMUSERENR has its four bits",
        PMUSERENR_EL0.read() & pmu::userenr::ALL,
        pmu::userenr::ALL
    );
    PMUSERENR_EL0.write(0);
    pmu::selected_type(SELECT_CYCLES).write(filter::P);
    check_eq!("PMXEVTYPER with PMSELR 31 is PMCCFILTR", PMCCFILTR_EL0.read(), filter::P);
    PMCCFILTR_EL0.write(filter::U);
    check_eq!("PMCCFILTR is PMXEVTYPER with PMSELR 31", PMXEVTYPER_EL0.read(), filter::U);
    PMCCFILTR_EL0.write(!0);
    check_eq!("the cycle counter has no event number", PMCCFILTR_EL0.read() & 0xffff, 0);
    PMCCFILTR_EL0.write(0);
}

#[guest]
fn configures_counters(_: &mut Guest) {
    pmu::need_counters(1);
    pmu::reset();
    let n = nr_counters();
    for i in 0..n {
        pmu::selected_type(i).write(event::CHAIN + i);
        pmu::selected_counter(i).write(0xdead_0000 + i);
    }
    for i in 0..n {
        check_eq!("each counter has its own event", pmu::selected_type(i).read(), event::CHAIN + i);
        check_eq!(
            "each counter has its own value",
            pmu::selected_counter(i).read(),
            0xdead_0000 + i
        );
    }
    for (i, (counter, kind)) in (0..n).zip(COUNTERS.into_iter().zip(TYPES)) {
        check_eq!("PMXEVTYPER is PMEVTYPER of the selected counter", kind.read(), event::CHAIN + i);
        check_eq!("PMXEVCNTR is PMEVCNTR of the selected counter", counter.read(), 0xdead_0000 + i);
        counter.write(i);
        check_eq!("PMEVCNTR is PMXEVCNTR of its counter", pmu::selected_counter(i).read(), i);
        kind.write(0xea | filter::P | filter::U);
        check_eq!(
            "PMEVTYPER keeps an event number and the filters",
            pmu::selected_type(i).read(),
            0xea | filter::P | filter::U
        );
    }
    PMCCNTR_EL0.write(77);
    for i in 0..n {
        pmu::selected_counter(i).write(5);
    }
    PMCR_EL0.write(pmcr::LC | pmcr::P);
    for i in 0..n {
        check_eq!("PMCR.P clears every event counter", pmu::selected_counter(i).read(), 0);
        check!("PMCR.P keeps the events", pmu::selected_type(i).read() != 0);
    }
    check_eq!("PMCR.P keeps the cycle counter", PMCCNTR_EL0.read(), 77);
    pmu::selected_counter(0).write(5);
    PMCR_EL0.write(pmcr::LC | pmcr::C);
    check_eq!("PMCR.C keeps event counters", pmu::selected_counter(0).read(), 5);
    check_eq!("PMCR.C clears the cycle counter", PMCCNTR_EL0.read(), 0);

    let Some(absent) = (1..event::COMMON_END).find(|&e| e != event::CHAIN && !pmu::offers(e))
    else {
        return;
    };
    pmu::selected_type(0).write(absent);
    pmu::selected_counter(0).write(0xdead_beef);
    PMCNTENSET_EL0.write(1);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    pmu::instructions(1000);
    PMCR_EL0.write(pmcr::LC);
    check_eq!("an event that PMCEID does not report is kept", PMEVTYPER0_EL0.read(), absent);
    check_eq!(
        "an event that PMCEID does not report does not count",
        PMEVCNTR0_EL0.read(),
        0xdead_beef
    );
    check_eq!("an event that PMCEID does not report does not overflow", PMOVSCLR_EL0.read(), 0);
}

#[guest]
fn touches_absent_counters(_: &mut Guest) {
    pmu::reset();
    let n = nr_counters();
    if n > 30 {
        guest_runtime::ucall::skip(format_args!("a counter number that is not in use"));
    }
    let undefined = Err(vector::UNKNOWN);
    for selection in [n, 30] {
        PMSELR_EL0.write(selection);
        let read = |register: SysReg| register.read_safe().map(|_| ()).map_err(|t| t.vector);
        let write = |register: SysReg| register.write_safe(0).map_err(|t| t.vector);
        check_eq!(
            "reading an absent counter by PMXEVCNTR is undefined",
            read(PMXEVCNTR_EL0),
            undefined
        );
        check_eq!(
            "writing an absent counter by PMXEVCNTR is undefined",
            write(PMXEVCNTR_EL0),
            undefined
        );
        check_eq!(
            "reading an absent event by PMXEVTYPER is undefined",
            read(PMXEVTYPER_EL0),
            undefined
        );
        check_eq!(
            "writing an absent event by PMXEVTYPER is undefined",
            write(PMXEVTYPER_EL0),
            undefined
        );
        check_eq!("reading PMEVCNTR30 is undefined without it", read(PMEVCNTR30_EL0), undefined);
        check_eq!("writing PMEVCNTR30 is undefined without it", write(PMEVCNTR30_EL0), undefined);
        check_eq!("reading PMEVTYPER30 is undefined without it", read(PMEVTYPER30_EL0), undefined);
        check_eq!("writing PMEVTYPER30 is undefined without it", write(PMEVTYPER30_EL0), undefined);
    }
    PMSELR_EL0.write(SELECT_CYCLES);
    check!(
        "the cycle counter's filter exists beside absent counters",
        PMXEVTYPER_EL0.read_safe().is_ok()
    );
    PMCNTENSET_EL0.write(1 << n);
    check_eq!("an absent counter cannot be enabled", PMCNTENSET_EL0.read(), 0);
    PMSWINC_EL0.write(1 << n);
    check_eq!("an absent counter cannot be incremented", PMOVSCLR_EL0.read(), 0);
}

#[guest]
fn clears_lc(_: &mut Guest) {
    check_eq!("PMCR.LC is 1 from reset on without AArch32", PMCR_EL0.read() & pmcr::LC, pmcr::LC);
    PMCR_EL0.write(0);
    check_eq!("PMCR.LC is RES1 without AArch32", PMCR_EL0.read() & pmcr::LC, pmcr::LC);
}

#[guest]
fn clears_lc_with_aarch32(_: &mut Guest) {
    PMCR_EL0.write(0);
    check_eq!("PMCR.LC can be cleared with AArch32", PMCR_EL0.read() & pmcr::LC, 0);
    PMCR_EL0.write(pmcr::LC);
    check_eq!("PMCR.LC can be set with AArch32", PMCR_EL0.read() & pmcr::LC, pmcr::LC);
}

#[guest]
fn tells_of_events(g: &mut Guest) {
    let version = g.arg(0);
    check!("PMCEID offers the event SW_INCR", pmu::offers(event::SW_INCR));
    check!("PMCEID offers the event CPU_CYCLES", pmu::offers(event::CPU_CYCLES));
    check!("PMCEID offers the event CHAIN", pmu::offers(event::CHAIN));
    check!(
        "PMCEID offers INST_RETIRED or INST_SPEC",
        pmu::offers(event::INST_RETIRED) || pmu::offers(event::INST_SPEC)
    );
    if version >= dfr0::PMUV3P1 {
        check!("PMCEID of PMUv3p1 offers STALL_FRONTEND", pmu::offers(event::STALL_FRONTEND));
        check!("PMCEID of PMUv3p1 offers STALL_BACKEND", pmu::offers(event::STALL_BACKEND));
    }
    for slot in [event::STALL_SLOT, event::STALL_SLOT_FRONTEND, event::STALL_SLOT_BACKEND] {
        // They count slots, whose number is in PMMIR_EL1, which guests see as zero.
        check!("PMCEID offers no events of slots", !pmu::offers(slot));
    }
    if version > dfr0::PMUV3P1 {
        check_eq!("PMMIR_EL1 reports no slots", PMMIR_EL1.read(), 0);
    }
    g.sync(1, &[PMCEID0_EL0.read(), PMCEID1_EL0.read()]);
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;
    use std::collections::BTreeSet;

    kvm_tests! { irqchip, pmu, requires(cap::ARM_PMU_V3) }

    /// Set, clear and select registers agree, for the counters that there are.
    #[kvm_test(reads_registers)]
    fn registers_agree(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Every counter has its value and its event, by number and by selection.
    #[kvm_test(configures_counters)]
    fn counters_are_configured_one_by_one(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Accesses to counters from PMCR_EL0.N on are undefined: of what the ARM ARM allows (D13, "Accesses to
    /// counters that are not implemented") KVM takes that.
    #[kvm_test(touches_absent_counters)]
    fn absent_counters_are_undefined(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// PMCR_EL0.LC is RES1 where no exception level runs AArch32 code, for the guest and for userspace.
    #[kvm_test(clears_lc, requires(cpu::AARCH64_ONLY))]
    fn lc_is_res1(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        let lc = |vcpu: &Vcpu| vcpu.get_sysreg(&PMCR_EL0).map(|value| value & pmcr::LC);
        check_eq!("userspace reads PMCR.LC as 1 from reset on", lc(vcpu), Ok(pmcr::LC));
        vcpu.run_until_done()?;
        let value = vcpu.get_sysreg(&PMCR_EL0).ioctl("KVM_GET_ONE_REG of PMCR_EL0")?;
        vcpu.set_sysreg(&PMCR_EL0, value & !pmcr::LC).ioctl("KVM_SET_ONE_REG of PMCR_EL0")?;
        check_eq!("userspace cannot clear PMCR.LC", lc(vcpu), Ok(pmcr::LC));
        Ok(())
    }

    /// PMCR_EL0.LC is a bit like others where EL0 can run AArch32 code.
    #[kvm_test(clears_lc_with_aarch32, requires(cpu::AARCH32_EL0))]
    fn lc_is_writable_with_aarch32(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The events that the architecture requires are offered (ARM ARM D13.11), and those that the host's
    /// kernel has found in its own PMCEID<n>_EL0.
    #[kvm_test(tells_of_events)]
    fn required_events_are_offered(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        let dfr0 = vcpu.get_sysreg(&ID_AA64DFR0_EL1).ioctl("KVM_GET_ONE_REG")?;
        vcpu.set_args(&[dfr0::PMUVER.get(dfr0)]);
        let seen = vcpu.run_until_sync(1)?;
        for event in host_events().into_iter().filter(|&e| e < event::STALL_SLOT_BACKEND) {
            let offered = seen[event as usize / 32] >> (event % 32) & 1;
            check!("PMCEID offers an event of the host", offered == 1, "event {event:#x}");
        }
        vcpu.run_until_done()
    }

    /// Numbers of the events that the host's kernel lists for its PMU; of several, those that all of them have.
    pub fn host_events() -> BTreeSet<u64> {
        const DEVICES: &str = "/sys/bus/event_source/devices";
        const NAMES: [&str; 3] = ["armv8", "armv9", "apple"];
        let pmus = std::fs::read_dir(DEVICES).into_iter().flatten().flatten();
        let pmus = pmus.filter(|pmu| {
            let name = pmu.file_name();
            NAMES.iter().any(|start| name.to_string_lossy().starts_with(start))
        });
        let events = |pmu: std::fs::DirEntry| -> BTreeSet<u64> {
            let files =
                std::fs::read_dir(pmu.path().join("events")).into_iter().flatten().flatten();
            files
                .filter_map(|file| std::fs::read_to_string(file.path()).ok())
                .filter_map(|t| u64::from_str_radix(t.trim().strip_prefix("event=0x")?, 16).ok())
                .filter(|&number| number < event::COMMON_END)
                .collect()
        };
        pmus.map(events).reduce(|all, one| &all & &one).unwrap_or_default()
    }
}
