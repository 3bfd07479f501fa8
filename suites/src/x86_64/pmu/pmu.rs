//! The virtual PMU: counters that count what the guest does and nothing else, as the SDM (vol. 3,
//! "Architectural Performance Monitoring") and the APM ("Performance Monitoring Counters") say; where
//! KVM offers none, none is to be seen.
use crate::prelude::*;
use cpuid::{feature, leaf};
use defs::x86::pmu::{INSTRUCTIONS_RETIRED as INSTRUCTIONS, PerfEvtSel};
use msr::{
    IA32_FIXED_CTR_CTRL, IA32_FIXED_CTR0, IA32_PERF_CAPABILITIES, IA32_PERF_GLOBAL_CTRL,
    IA32_PERF_GLOBAL_OVF_CTRL, IA32_PERF_GLOBAL_STATUS, IA32_PERFEVTSEL0, IA32_PMC0,
    PERF_LEGACY_CTL0, PERF_LEGACY_CTR0,
};

const USR: u64 = PerfEvtSel::USR.bits();
const OS: u64 = PerfEvtSel::OS.bits();
const INT: u64 = PerfEvtSel::INT.bits();
const EN: u64 = PerfEvtSel::EN.bits();
const VECTOR: u8 = 0x61;

/// The counters of this CPU.
#[derive(Clone, Copy)]
struct Pmu {
    select: u32,
    counter: u32,
    counters: u32,
    fixed: u32,
    has_global_ctrl: bool,
}

impl Pmu {
    /// Ends the test as skipped where there is none.
    fn of_this_cpu() -> Self {
        let [eax, _, _, edx] = cpuid(leaf::PERFORMANCE_MONITORING, 0);
        let version = eax & 0xff;
        let fixed = if version > 1 { edx & 0x1f } else { 0 };
        let counters = eax >> 8 & 0xff;
        let intel = Self {
            select: IA32_PERFEVTSEL0,
            counter: IA32_PMC0,
            counters,
            fixed,
            has_global_ctrl: version > 1,
        };
        let amd = Self {
            select: PERF_LEGACY_CTL0,
            counter: PERF_LEGACY_CTR0,
            counters: 4,
            fixed: 0,
            has_global_ctrl: false,
        };
        match Hypercall::of_this_cpu() {
            Hypercall::Vmcall if version > 0 && counters > 0 => return intel,
            // No leaf tells of these: they keep what is written, or there are none.
            Hypercall::Vmmcall if wrmsr_safe(PERF_LEGACY_CTL0, INSTRUCTIONS | USR).is_ok() => {
                let there = rdmsr_safe(PERF_LEGACY_CTL0) == Ok(INSTRUCTIONS | USR);
                let _ = wrmsr_safe(PERF_LEGACY_CTL0, 0);
                if there {
                    return amd;
                }
            }
            _ => {}
        }
        guest_runtime::ucall::skip(format_args!("a PMU for guests"))
    }

    fn select(self, index: u32, value: u64) {
        wrmsr(self.select + index, value);
    }

    fn count(self, index: u32) -> u64 {
        rdmsr(self.counter + index)
    }

    fn global(self, mask: u64) {
        if self.has_global_ctrl {
            wrmsr(IA32_PERF_GLOBAL_CTRL, mask);
        }
    }

    /// The event of branch instructions retired.
    fn branches(self) -> u64 {
        if self.select == PERF_LEGACY_CTL0 { 0xc2 } else { 0xc4 }
    }

    /// Makes the counter overflow after so many events.
    fn near_overflow(self, index: u32, events: u32) {
        let start = match self.select {
            // 48 bits.
            PERF_LEGACY_CTL0 => u64::from(events).wrapping_neg() & ((1 << 48) - 1),
            // A write of 32 bits is sign-extended.
            _ => u64::from(events.wrapping_neg()),
        };
        wrmsr(self.counter + index, start);
    }

    /// Counts `event` in counter `index` while it runs `work`.
    fn counting(self, index: u32, event: u64, work: impl FnOnce()) -> u64 {
        wrmsr(self.counter + index, 0);
        self.select(index, event | EN);
        self.global(1 << index);
        work();
        self.global(0);
        self.select(index, 0);
        self.count(index)
    }
}

const LOOPS: u64 = 300;

extern "C" fn work(_: u64) -> u64 {
    let mut value = 1_u64;
    for _ in 0..LOOPS {
        value = core::hint::black_box(value.wrapping_mul(3));
    }
    value
}

extern "C" fn nothing(_: u64) -> u64 {
    0
}

/// Counts `LOOPS` turns of a loop: at least an instruction each, and not a hundred.
fn is_the_work(count: u64) -> bool {
    (LOOPS..100 * LOOPS).contains(&count)
}

#[guest]
fn counts_instructions(_: &mut Guest) {
    let pmu = Pmu::of_this_cpu();
    for index in 0..pmu.counters {
        let here: fn() = || {
            work(0);
        };
        let there: fn() = || {
            user::run(Rflags::empty(), work, 0);
        };
        let few = LOOPS / 2;
        let all = pmu.counting(index, INSTRUCTIONS | OS | USR, here);
        check!("a counter counts the instructions of a loop", is_the_work(all), "{index}: {all}");
        let branches = pmu.counting(index, pmu.branches() | OS | USR, here);
        let some = (1..all).contains(&branches);
        check!(
            "a second counter counts the branches, which are fewer",
            some,
            "{index}: {branches} of {all}"
        );
        let os = pmu.counting(index, INSTRUCTIONS | OS, here);
        check!("a counter with OS counts in ring 0", is_the_work(os), "{index}: {os}");
        let usr = pmu.counting(index, INSTRUCTIONS | USR, here);
        check!("a counter with USR does not count in ring 0", usr < few, "{index}: {usr}");
        let usr = pmu.counting(index, INSTRUCTIONS | USR, there);
        check!("a counter with USR counts in ring 3", is_the_work(usr), "{index}: {usr}");
        // Coming back from ring 3 alone is thousands of instructions.
        let there_and_back: fn() = || {
            user::run(Rflags::empty(), nothing, 0);
        };
        let os_counts = |work: fn()| [(); 3].map(|()| pmu.counting(index, INSTRUCTIONS | OS, work));
        let [os, back] = [there, there_and_back].map(os_counts);
        let (os, back) = (os.into_iter().min(), back.into_iter().min());
        let none = os < back.map(|back| back + few);
        check!(
            "a counter with OS does not count in ring 3",
            none,
            "{index}: {os:?}, {back:?} without the loop"
        );
        let stopped = pmu.count(index);
        pmu.select(index, INSTRUCTIONS | OS | USR);
        pmu.global(1 << index);
        work(0);
        pmu.global(0);
        check_eq!("a counter that is switched off stands still", pmu.count(index), stopped);
        for value in [0, 1, 0x7fff_ffff] {
            wrmsr(pmu.counter + index, value);
            check_eq!("a counter reads as written", pmu.count(index), value);
        }
    }
    if pmu.has_global_ctrl {
        pmu.select(0, INSTRUCTIONS | OS | USR | EN);
        wrmsr(pmu.counter, 0);
        pmu.global(0);
        work(0);
        check_eq!(
            "a counter without its bit in IA32_PERF_GLOBAL_CTRL stands still",
            pmu.count(0),
            0
        );
        let reserved = wrmsr_safe(IA32_PERF_GLOBAL_CTRL, 1 << 63).err().map(|t| t.vector);
        check_eq!("a reserved bit of IA32_PERF_GLOBAL_CTRL is #GP", reserved, Some(vector::GP));
    }
}

#[guest]
fn counts_by_fixed_counters(_: &mut Guest) {
    let pmu = Pmu::of_this_cpu();
    if pmu.fixed == 0 {
        guest_runtime::ucall::skip(format_args!("fixed counters"));
    }
    for index in 0..pmu.fixed.min(3) {
        let counter = IA32_FIXED_CTR0 + index;
        for (rings, counts) in [(0b11, true), (0b01, true), (0b10, false), (0b00, false)] {
            wrmsr(counter, 0);
            wrmsr(IA32_FIXED_CTR_CTRL, rings << (4 * index));
            pmu.global(1 << (32 + index));
            work(0);
            pmu.global(0);
            let count = rdmsr(counter);
            let right = if counts { count >= LOOPS / 100 } else { count < LOOPS / 2 };
            check!(
                "fixed counter {index} counts in exactly the rings {rings:#b}",
                right,
                "{count}"
            );
        }
        wrmsr(IA32_FIXED_CTR_CTRL, 0);
    }
    let gp = |result: Result<(), Trap>| result.err().map(|t| t.vector) == Some(vector::GP);
    check!(
        "RDMSR of an absent fixed counter is #GP",
        gp(rdmsr_safe(IA32_FIXED_CTR0 + pmu.fixed).map(drop))
    );
    let beyond = 1 << (4 * pmu.fixed);
    check!("enabling an absent fixed counter is #GP", gp(wrmsr_safe(IA32_FIXED_CTR_CTRL, beyond)));
}

#[guest]
fn overflows(_: &mut Guest) {
    let pmu = Pmu::of_this_cpu();
    let apic = Apic::enable();
    let mut taken = 0;
    let on_interrupt = |_: &mut TrapFrame| {
        taken += 1;
        apic.eoi();
    };
    apic.write(apic::reg::LVT_PMI, VECTOR.into());
    with_handler(VECTOR, on_interrupt, || {
        pmu.near_overflow(0, 100);
        pmu.select(0, INSTRUCTIONS | OS | USR | INT | EN);
        pmu.global(1);
        work(0);
        pmu.global(0);
        pmu.select(0, 0);
        sti();
        spin_for(1000, || false);
        cli();
    });
    check_eq!("an overflow is exactly one interrupt", taken, 1);
    let count = pmu.count(0);
    check!("an overflowed counter goes on from 0", count < 100 * LOOPS, "{count:#x}");
    if pmu.has_global_ctrl {
        let lvt = apic.read(apic::reg::LVT_PMI);
        check!("delivering the interrupt masks LVT PMI", lvt & apic::LVT_MASKED != 0, "{lvt:#x}");
        check_eq!(
            "IA32_PERF_GLOBAL_STATUS reports the overflow",
            rdmsr(IA32_PERF_GLOBAL_STATUS) & 1,
            1
        );
        wrmsr(IA32_PERF_GLOBAL_OVF_CTRL, 1);
        check_eq!(
            "IA32_PERF_GLOBAL_OVF_CTRL clears the overflow",
            rdmsr(IA32_PERF_GLOBAL_STATUS) & 1,
            0
        );
    }
}

const READY: u64 = 1;

/// Counts when it is told, and tells the count of two events: the filtered one and another one.
#[guest]
fn counts_on_request(g: &mut Guest) {
    let pmu = Pmu::of_this_cpu();
    let mut counts = [0; 2];
    while g.sync(READY, &counts)[0] != 0 {
        counts = [INSTRUCTIONS, pmu.branches()].map(|event| {
            pmu.counting(0, event | OS | USR, || {
                work(0);
            })
        });
    }
}

#[guest]
fn looks_for_a_pmu(_: &mut Guest) {
    let gp = |result: Result<(), Trap>| result.err().map(|t| t.vector) == Some(vector::GP);
    for msr in [
        IA32_FIXED_CTR0,
        IA32_FIXED_CTR_CTRL,
        IA32_PERF_GLOBAL_STATUS,
        IA32_PERF_GLOBAL_CTRL,
        IA32_PERF_GLOBAL_OVF_CTRL,
    ] {
        check!("RDMSR of {msr:#x} is #GP without a PMU", gp(rdmsr_safe(msr).map(drop)));
        check!("WRMSR of {msr:#x} is #GP without a PMU", gp(wrmsr_safe(msr, 0)));
    }
    if !cpuid_has(feature::PDCM) {
        let read = gp(rdmsr_safe(IA32_PERF_CAPABILITIES).map(drop));
        check!("RDMSR of IA32_PERF_CAPABILITIES is #GP without PDCM", read);
    }
    // Old guests touch these blindly: KVM takes the writes and keeps nothing.
    let (select, counter) = match Hypercall::of_this_cpu() {
        Hypercall::Vmcall => (IA32_PERFEVTSEL0, IA32_PMC0),
        Hypercall::Vmmcall => (PERF_LEGACY_CTL0, PERF_LEGACY_CTR0),
    };
    if wrmsr_safe(select, INSTRUCTIONS | OS | USR | EN).is_ok() {
        work(0);
        check_eq!("no counter counts without a PMU", rdmsr_safe(counter).unwrap_or(0), 0);
    }
}

#[host]
mod host {
    use super::*;
    use cpuid::vendor;

    /// Without counters of its own the host can lend none, although an old KVM keeps their registers.
    fn host_has_a_pmu() -> bool {
        ["cpu", "cpu_core"].iter().any(|name| {
            std::fs::exists(format!("/sys/bus/event_source/devices/{name}")).unwrap_or(false)
        })
    }

    fn needs_a_pmu() -> TestResult {
        require!(host_has_a_pmu(), "a PMU in the host");
        Ok(())
    }

    /// Counters count instructions of the rings that they are told, while they are on.
    #[kvm_test(counts_instructions, requires(host::FREE_COUNTERS))]
    fn general_counters_count_what_they_are_told(t: &mut OneVcpu) -> TestResult {
        needs_a_pmu()?;
        t.vcpu.run_until_done()
    }

    /// Fixed counters count in the rings that they are told, and those that are not there are not.
    #[kvm_test(counts_by_fixed_counters, requires(host::FREE_COUNTERS))]
    fn fixed_counters_count_what_they_are_told(t: &mut OneVcpu) -> TestResult {
        needs_a_pmu()?;
        t.vcpu.run_until_done()
    }

    /// A counter that overflows with INT set raises the interrupt of LVT PMI, once.
    #[kvm_test(overflows, irqchip, requires(host::FREE_COUNTERS))]
    fn overflow_interrupts(t: &mut OneVcpu) -> TestResult {
        needs_a_pmu()?;
        t.vcpu.run_until_done()
    }

    /// `KVM_PMU_EVENT_ALLOW` and `KVM_PMU_EVENT_DENY`.
    const ALLOW: u32 = 0;
    const DENY: u32 = 1;

    fn set_filter(vm: &Vm, action: u32, events: &[u64]) -> TestResult {
        // `struct kvm_pmu_event_filter`: action, number, bitmap of fixed counters, flags, padding.
        let mut filter: Vec<u8> = [action, events.len() as u32, 0, 0, 0, 0, 0, 0]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        filter.extend(events.iter().flat_map(|event| event.to_ne_bytes()));
        vm.set_pmu_event_filter(&filter).ioctl("KVM_SET_PMU_EVENT_FILTER")
    }

    /// KVM_SET_PMU_EVENT_FILTER: denied events count nothing, others as before; the newest filter holds
    /// (api.rst 4.120).
    #[kvm_test(counts_on_request, requires(cap::PMU_EVENT_FILTER, host::FREE_COUNTERS))]
    fn event_filter_stops_what_it_names(t: &mut OneVcpu) -> TestResult {
        needs_a_pmu()?;
        t.vcpu.run_until_sync(READY)?;
        let mut counts = || -> TestResult<[bool; 2]> {
            t.vcpu.answer(&[1]);
            let [instructions, branches, ..] = t.vcpu.run_until_sync(READY)?;
            Ok([instructions != 0, branches != 0])
        };
        check_eq!("both events count without a filter", counts()?, [true, true]);
        set_filter(&t.vm, DENY, &[INSTRUCTIONS])?;
        check_eq!("a denied event does not count, another one does", counts()?, [false, true]);
        set_filter(&t.vm, ALLOW, &[INSTRUCTIONS])?;
        check_eq!("an allowed event counts, no other one does", counts()?, [true, false]);
        set_filter(&t.vm, ALLOW, &[])?;
        check_eq!("an empty allow list allows no event", counts()?, [false, false]);
        set_filter(&t.vm, DENY, &[])?;
        check_eq!("an empty deny list denies no event", counts()?, [true, true]);
        t.vcpu.answer(&[0]);
        t.vcpu.run_until_done()
    }

    /// CPUID leaf 0xA: EAX tells the PMU's version.
    fn pmu_version(vm: &mut Vm) -> u32 {
        let leaf =
            vm.cpuid_mut().as_slice().iter().find(|e| e.function == leaf::PERFORMANCE_MONITORING);
        leaf.map_or(0, |e| e.eax & 0xff)
    }

    /// Where KVM's CPUID tells of no architectural PMU, guests see none, but for AMD's legacy counters: no
    /// leaf tells of them.
    #[kvm_test(looks_for_a_pmu, requires(host::UNKNOWN_MSRS_FAULT))]
    fn absent_pmu_is_hidden(t: &mut OneVm) -> TestResult {
        let cpuid = t.vm.cpuid_mut().as_slice().to_vec();
        let v2 = cpuid.iter().any(|e| {
            e.function == feature::PERFMON_V2.leaf
                && feature::PERFMON_V2.is_set([e.eax, e.ebx, e.ecx, e.edx])
        });
        require!(
            pmu_version(&mut t.vm) == 0 && !v2,
            "a host without an architectural PMU for guests"
        );
        let intel = cpuid.iter().any(|e| {
            e.function == leaf::VENDOR
                && vendor::name([e.eax, e.ebx, e.ecx, e.edx]) == vendor::INTEL
        });
        let parameter = std::fs::read_to_string("/sys/module/kvm/parameters/enable_pmu");
        let is_off = parameter.is_ok_and(|value| value.trim() == "N");
        let legacy = !intel && host_has_a_pmu() && !is_off;
        require!(!legacy, "a host without counters that no CPUID leaf tells of");
        let leaf = cpuid.iter().find(|e| e.function == leaf::PERFORMANCE_MONITORING);
        let rest = leaf.map_or(0, |e| e.eax | e.ebx | e.ecx | e.edx);
        check_eq!("CPUID leaf 0xa is all 0", rest, 0);
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(looks_for_a_pmu))?;
        vcpu.run_until_done()
    }

    /// KVM_PMU_CAP_DISABLE takes the PMU from a VM, whatever its CPUID says (api.rst 8.35).
    #[kvm_test(looks_for_a_pmu, requires(cap::PMU_CAPABILITY, host::UNKNOWN_MSRS_FAULT))]
    fn pmu_can_be_switched_off(t: &mut OneVm) -> TestResult {
        const DISABLE: u64 = 1 << 0;
        check_eq!(
            "an unknown mode of KVM_CAP_PMU_CAPABILITY is EINVAL",
            set_mode(&t.vm, 1 << 1),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "KVM_PMU_CAP_DISABLE is accepted before the first vCPU",
            set_mode(&t.vm, DISABLE),
            Ok(())
        );
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(looks_for_a_pmu))?;
        check_eq!(
            "KVM_PMU_CAP_DISABLE is EINVAL after the first vCPU",
            set_mode(&t.vm, DISABLE),
            Err(Errno::EINVAL)
        );
        vcpu.run_until_done()
    }

    fn set_mode(vm: &Vm, mode: u64) -> Result<(), Errno> {
        vm.enable_cap(bindings::KVM_CAP_PMU_CAPABILITY, [mode, 0, 0, 0])
    }
}
