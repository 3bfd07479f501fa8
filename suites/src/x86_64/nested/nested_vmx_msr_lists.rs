//! The lists of MSRs that VM entries and exits load and store (SDM vol. 3, "VM-Entry Controls for MSRs",
//! "VM-Exit Controls for MSRs"), and the TSC among them: an exit stores the highest that its guest can have
//! seen.
use crate::prelude::*;
use defs::x86::vmcs::{Field, cpu as cpu_controls, reason};

const LIST: u64 = layout::SCRATCH;
const OTHER_LIST: u64 = LIST + layout::PAGE_SIZE;

/// Makes a list of MSRs and values at `gpa`.
fn put_list(gpa: u64, entries: &[(u32, u64)]) {
    for (at, (index, value)) in (gpa..).step_by(16).zip(entries) {
        poke(at, u64::from(*index));
        poke(at + 8, *value);
    }
}

fn stored(gpa: u64, nth: u64) -> u64 {
    peek(gpa + nth * 16 + 8)
}

guest_asm! {
    /// Reads the TSC, over and over.
    READS_TSC, bits64:
    "rdtsc",
    "vmcall",
}

guest_asm! {
    /// Reads the TSC twice.
    READS_TSC_TWICE, bits64:
    "rdtsc",
    "mov rbx, rax",
    "mov rcx, rdx",
    "rdtsc",
    "vmcall",
}

guest_asm! { READS_MSR, bits64: "rdmsr", "vmcall" }

const ROUNDS: usize = 31;

fn median(mut values: [u64; ROUNDS]) -> u64 {
    values.sort_unstable();
    values[ROUNDS / 2]
}

/// What the guest read last, as RDTSC leaves it.
fn last_read(vmx: &Vmx) -> u64 {
    vmx.gprs.rdx << 32 | vmx.gprs.rax & 0xffff_ffff
}

#[guest]
fn stores_tsc(g: &mut Guest) {
    let offset = if g.arg(0) != 0 { rdtsc().wrapping_neg() } else { 0 };
    let mut vmx = Vmx::new();
    vmx.set(Field::CPU_BASED_VM_EXEC_CONTROL, cpu_controls::USE_TSC_OFFSETTING);
    vmx.write(Field::TSC_OFFSET, offset);
    let lists: [&[(u32, u64)]; 3] = [
        &[(msr::IA32_TIME_STAMP_COUNTER, 0)],
        &[(msr::IA32_TIME_STAMP_COUNTER, 0), (msr::IA32_LSTAR, 0)],
        &[(msr::IA32_LSTAR, 0), (msr::IA32_TIME_STAMP_COUNTER, 0)],
    ];
    vmx.write(Field::VM_EXIT_MSR_STORE_ADDR, LIST);
    for list in lists {
        let nth = if list[0].0 == msr::IA32_TIME_STAMP_COUNTER { 0 } else { 1 };
        vmx.write(Field::VM_EXIT_MSR_STORE_COUNT, list.len() as u64);
        let mut distances = [0; ROUNDS];
        for distance in &mut distances {
            put_list(LIST, list);
            vmx.start(&READS_TSC);
            let exit = vmx.run();
            let behind = rdtsc_ordered();
            check_eq!(
                "the guest's hypercall ends its read of the TSC",
                exit.reason(),
                Some(reason::VMCALL)
            );
            let (seen, kept) = (last_read(&vmx).wrapping_sub(offset), stored(LIST, nth));
            check!(
                "the stored TSC is not before the guest's last read",
                kept >= seen,
                "{kept:#x}, {seen:#x}"
            );
            check!(
                "the stored TSC is not behind its hypervisor's first read",
                kept <= behind,
                "{kept:#x}, {behind:#x}"
            );
            *distance = kept - seen;
        }
        // The way from exit to the hypervisor is many times that from the guest's read to the exit.
        vmx.write(Field::VM_EXIT_MSR_STORE_COUNT, 0);
        let mut ways = [0; ROUNDS];
        for way in &mut ways {
            vmx.start(&READS_TSC);
            vmx.run();
            *way = rdtsc_ordered() - last_read(&vmx).wrapping_sub(offset);
        }
        let (distance, way) = (median(distances), median(ways));
        check!(
            "the stored TSC is that of the exit, not of its emulation",
            distance < way / 2,
            "{distance} of {way} cycles"
        );
    }
}

#[guest]
fn offsets_tsc(_: &mut Guest) {
    let mut vmx = Vmx::new();
    for offset in [1 << 50, (1_u64 << 50).wrapping_neg()] {
        vmx.set(Field::CPU_BASED_VM_EXEC_CONTROL, cpu_controls::USE_TSC_OFFSETTING);
        vmx.write(Field::TSC_OFFSET, offset);
        let before = rdtsc_ordered();
        vmx.start(&READS_TSC_TWICE);
        vmx.run();
        let after = rdtsc_ordered();
        let first = (vmx.gprs.rcx << 32 | vmx.gprs.rbx & 0xffff_ffff).wrapping_sub(offset);
        let second = last_read(&vmx).wrapping_sub(offset);
        check!(
            "the guest's TSC goes with its hypervisor's and the offset",
            before <= first && first <= second && second <= after,
            "{before:#x}, {first:#x}, {second:#x}, {after:#x}"
        );
    }
    let own = vmx.read(Field::CPU_BASED_VM_EXEC_CONTROL);
    let without = own & !u64::from(cpu_controls::USE_TSC_OFFSETTING);
    vmx.write(Field::CPU_BASED_VM_EXEC_CONTROL, without);
    let before = rdtsc_ordered();
    vmx.start(&READS_TSC);
    vmx.run();
    let (seen, after) = (last_read(&vmx), rdtsc_ordered());
    check!(
        "TSC_OFFSET counts with its control alone",
        before <= seen && seen <= after,
        "{before:#x}, {seen:#x}, {after:#x}"
    );
}

#[guest]
fn loads_and_stores(_: &mut Guest) {
    let own = [rdmsr(msr::IA32_LSTAR), rdmsr(msr::IA32_CSTAR)];
    let mut vmx = Vmx::new();
    put_list(
        LIST,
        &[(msr::IA32_LSTAR, 0x1111), (msr::IA32_CSTAR, 0x2222), (msr::IA32_LSTAR, 0x3333)],
    );
    vmx.write(Field::VM_ENTRY_MSR_LOAD_ADDR, LIST);
    vmx.write(Field::VM_ENTRY_MSR_LOAD_COUNT, 3);
    put_list(OTHER_LIST, &[(msr::IA32_LSTAR, 0), (msr::IA32_CSTAR, 0)]);
    vmx.write(Field::VM_EXIT_MSR_STORE_ADDR, OTHER_LIST);
    vmx.write(Field::VM_EXIT_MSR_STORE_COUNT, 2);
    let restored = OTHER_LIST + 0x100;
    put_list(restored, &[(msr::IA32_LSTAR, own[0]), (msr::IA32_CSTAR, own[1])]);
    vmx.write(Field::VM_EXIT_MSR_LOAD_ADDR, restored);
    vmx.write(Field::VM_EXIT_MSR_LOAD_COUNT, 2);
    vmx.start(&READS_MSR);
    vmx.gprs.rcx = msr::IA32_LSTAR.into();
    let exit = vmx.run();
    check_eq!("the guest with lists of MSRs runs", exit.reason(), Some(reason::VMCALL));
    check_eq!("of two entries of an MSR the later one is loaded", last_read(&vmx), 0x3333);
    check_eq!(
        "an exit stores what the entry loaded",
        [stored(OTHER_LIST, 0), stored(OTHER_LIST, 1)],
        [0x3333, 0x2222]
    );
    let now = [rdmsr(msr::IA32_LSTAR), rdmsr(msr::IA32_CSTAR)];
    check_eq!("an exit loads what its list has", now, own);

    const FAILED: u32 = reason::MSR_LOADING | reason::ENTRY_FAILURE;
    for (what, entry) in [
        ("FS_BASE", (msr::IA32_FS_BASE, 0)),
        ("GS_BASE", (msr::IA32_GS_BASE, 0)),
        ("an MSR of the x2APIC", (apic::x2apic_msr(apic::reg::TPR), 0)),
        ("an MSR that there is not", (msr::UNKNOWN, 0)),
        ("a value that is not canonical", (msr::IA32_LSTAR, 1 << 62)),
    ] {
        put_list(LIST, &[(msr::IA32_CSTAR, 0x2222), entry]);
        vmx.write(Field::VM_ENTRY_MSR_LOAD_COUNT, 2);
        vmx.start(&READS_MSR);
        let exit = vmx.run();
        check_eq!("an entry that is to load {what} fails", exit.reason(), Some(FAILED));
        if let vmx::Exit::Vm { qualification, .. } = exit {
            check_eq!("the exit qualification is the entry of {what}", qualification, 2);
        }
    }
    put_list(LIST, &[(msr::IA32_CSTAR, 0x2222)]);
    vmx.write(Field::VM_ENTRY_MSR_LOAD_COUNT, 1);
    vmx.start(&READS_MSR);
    vmx.gprs.rcx = msr::IA32_CSTAR.into();
    let exit = vmx.run();
    check_eq!("the guest runs behind entries that failed", exit.reason(), Some(reason::VMCALL));
    check_eq!("the guest has the MSR of its list", last_read(&vmx), 0x2222);
}

#[host]
mod host {
    use super::*;

    kvm_tests! { requires(cpu::VMX) }

    /// The stored TSC is the highest that the guest can have seen, wherever it stands in the list.
    #[kvm_test(stores_tsc, params = [plain: 0, offset: 1])]
    fn exit_stores_the_highest_observable_tsc(t: &mut OneVcpu, offset: u64) -> TestResult {
        t.vcpu.set_args(&[offset]);
        t.vcpu.run_until_done()
    }

    /// TSC_OFFSET is added to what the guest reads.
    #[kvm_test(offsets_tsc)]
    fn tsc_offset_is_the_guests(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Lists are loaded and stored in order; what cannot be loaded fails the entry.
    #[kvm_test(loads_and_stores)]
    fn lists_are_loaded_and_stored(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
