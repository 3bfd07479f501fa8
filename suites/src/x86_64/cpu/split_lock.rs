//! Alignment checks and locked accesses across cache lines: #AC goes to the guest exactly where the
//! architecture raises it (SDM vol. 3, 6.15 "Interrupt 17"), whatever the host does about split locks,
//! and a split lock of the guest has its effect, natively and when KVM emulates it.
use crate::prelude::*;
use cpuid::feature::CORE_CAPABILITIES;
use insn_table::{Form, Gpr};
use msr::{IA32_CORE_CAPABILITIES, MSR_TEST_CTRL, TestCtrl};

/// Two pages of RAM for accesses across the border between them.
const RAM: u64 = layout::SCRATCH;
const PAGE: u64 = layout::PAGE_SIZE;
const CACHE_LINE: u64 = 64;
const READY: u64 = 1;

/// A fault as one number: vector in the second byte, the error code below; 0 for none.
fn outcome(result: Result<(), Trap>) -> u64 {
    result
        .map_or_else(|trap| 1 << 63 | u64::from(trap.vector) << 32 | u64::from(trap.error), |()| 0)
}

const ALIGNMENT_CHECK: u64 = 1 << 63 | (vector::AC as u64) << 32;

extern "C" fn store_16(gva: u64) -> u64 {
    outcome(write_safe(gva, 0x5555_u16))
}

extern "C" fn store_32(gva: u64) -> u64 {
    outcome(write_safe(gva, 0x5555_5555_u32))
}

extern "C" fn store_64(gva: u64) -> u64 {
    outcome(write_safe(gva, 0x5555_5555_5555_5555_u64))
}

extern "C" fn load_16(gva: u64) -> u64 {
    outcome(read_safe::<u16>(gva).map(drop))
}

extern "C" fn load_32(gva: u64) -> u64 {
    outcome(read_safe::<u32>(gva).map(drop))
}

extern "C" fn load_64(gva: u64) -> u64 {
    outcome(read_safe::<u64>(gva).map(drop))
}

type Access = extern "C" fn(u64) -> u64;

/// Accesses with their sizes.
const ACCESSES: [(&str, u64, Access, bool); 6] = [
    ("16-bit store", 2, store_16, true),
    ("32-bit store", 4, store_32, true),
    ("64-bit store", 8, store_64, true),
    ("16-bit load", 2, load_16, false),
    ("32-bit load", 4, load_32, false),
    ("64-bit load", 8, load_64, false),
];

fn fill(gva: u64, bytes: u64, value: u8) {
    (0..bytes).for_each(|i| poke(gva + i, value));
}

/// Accesses at every alignment with CR0.AM, RFLAGS.AC and the privilege level as the host half says.
#[guest]
fn accesses_at_every_alignment(g: &mut Guest) {
    let [am, ac, cpl] = [0, 1, 2].map(|i| g.arg(i));
    let cr0 = read_cr0();
    write_cr0(if am != 0 { cr0 | Cr0::AM.bits() } else { cr0 & !Cr0::AM.bits() });
    let flags = if ac != 0 { Rflags::AC } else { Rflags::empty() };
    let run = |access: Access, gva: u64| {
        if cpl == 3 {
            return user::run(flags, access, gva);
        }
        let before = rflags();
        set_rflags(before | flags.bits());
        let result = access(gva);
        set_rflags(before);
        result
    };
    let checked = am != 0 && ac != 0 && cpl == 3;
    for (what, size, access, is_store) in ACCESSES {
        let (mut unaligned_wrong, mut stored_wrong) = (None, None);
        for offset in 0..size {
            fill(RAM, 16, 0);
            let got = run(access, RAM + offset);
            let want = if checked && offset != 0 { ALIGNMENT_CHECK } else { 0 };
            if got != want {
                unaligned_wrong = Some((offset, got));
            }
            let stored = (0..16).filter(|i| peek::<u8>(RAM + i) != 0).count() as u64;
            if stored != if want == 0 { size } else { 0 } {
                stored_wrong = Some((offset, stored));
            }
        }
        let (offset, got) = unaligned_wrong.unwrap_or_default();
        check!(
            "{what}: #AC(0) is raised where it should be, and nowhere else",
            unaligned_wrong.is_none(),
            "at offset {offset}: {got:#x}"
        );
        let (offset, stored) = stored_wrong.unwrap_or_default();
        if is_store {
            check!(
                "{what}: a store takes all its bytes or none",
                stored_wrong.is_none(),
                "at offset {offset}: {stored} bytes"
            );
        }
    }
    write_cr0(cr0);
}

const BEFORE: u64 = 0x1122_3344_5566_7788;
const NEW: u64 = 0xfedc_ba98_7654_3210;
const MISSED: u64 = u64::MAX;

fn hit_or_miss((rax, zf): (u64, bool)) -> u64 {
    if zf { MISSED } else { rax }
}

macro_rules! locked_operations {
    ($table:ident, $form:ident, $FORM:expr) => {
        /// Locked operations on [`BEFORE`]: what each returns, and what it leaves in memory.
        const $table: [(&str, Access, u64, u64); 5] = {
            const FORM: Form = $FORM;
            extern "C" fn sub(gva: u64) -> u64 {
                insn::LOCK_SUB_M32_R32.$form(gva, 0x1111_1111);
                0
            }
            extern "C" fn xadd(gva: u64) -> u64 {
                insn::LOCK_XADD_M32_R32.$form(gva, 0x9999_9999)[Gpr::Rsi]
            }
            extern "C" fn xchg(gva: u64) -> u64 {
                insn::XCHG_M32_R32.$form(gva, 0xdead_beef)[Gpr::Rsi]
            }
            extern "C" fn cmpxchg(gva: u64) -> u64 {
                hit_or_miss(insn::cmpxchg64(FORM, gva, BEFORE, NEW))
            }
            extern "C" fn cmpxchg_other(gva: u64) -> u64 {
                hit_or_miss(insn::cmpxchg64(FORM, gva, !BEFORE, NEW))
            }
            const HIGH: u64 = BEFORE & !0xffff_ffff;
            [
                ("LOCK SUB", sub, 0, HIGH | 0x4455_6677),
                ("LOCK XADD", xadd, 0x5566_7788, HIGH | 0xef00_1121),
                ("XCHG", xchg, 0x5566_7788, HIGH | 0xdead_beef),
                ("LOCK CMPXCHG of an equal value", cmpxchg, MISSED, NEW),
                ("LOCK CMPXCHG of another value", cmpxchg_other, BEFORE, BEFORE),
            ]
        };
    };
}
locked_operations!(OPERATIONS, native, Form::Native);
locked_operations!(FORCED_OPERATIONS, forced, Form::Forced);

/// Bytes of an operand that lie before the border that it crosses.
const BEFORE_BORDER: u64 = 2;
const FORCED: u64 = 4;

/// Locked operations across a cache line and across a page, in the ring that the host half names.
#[guest]
fn locks_across_borders(g: &mut Guest) {
    let mode = g.arg(0);
    let operations = if mode == FORCED { FORCED_OPERATIONS } else { OPERATIONS };
    for (border, at) in [("a cache line", RAM + CACHE_LINE), ("a page", RAM + PAGE)] {
        for (what, operation, result, memory) in operations {
            let gva = at - BEFORE_BORDER;
            fill(gva - 4, 16, 0xee);
            for (i, byte) in BEFORE.to_le_bytes().into_iter().enumerate() {
                poke(gva + i as u64, byte);
            }
            let got =
                if mode == 3 { user::run(Rflags::empty(), operation, gva) } else { operation(gva) };
            check_eq!("{what} across {border} returns the old value", got, result);
            let bytes = core::array::from_fn(|i| peek::<u8>(gva + i as u64));
            check_eq!(
                "{what} across {border} stores its result",
                u64::from_le_bytes(bytes),
                memory
            );
            let beside = (0..4)
                .filter(|i| peek::<u8>(gva - 1 - i) != 0xee || peek::<u8>(gva + 8 + i) != 0xee);
            check_eq!("{what} across {border} leaves the bytes beside it", beside.count(), 0);
        }
    }
}

/// Operations on memory that the host half names, one at a time.
#[guest]
fn locks_what_it_is_told(g: &mut Guest) {
    let mut got = 0;
    loop {
        let [nr, gva, ..] = g.sync(READY, &[got]);
        let Some((_, operation, _, _)) = OPERATIONS.get(nr as usize) else { return };
        got = operation(gva);
    }
}

#[guest]
fn looks_for_detection(_: &mut Guest) {
    let fault = |result: Result<(), Trap>| result.err().map(|t| (t.vector, t.error));
    let gp = Some((vector::GP, 0));
    check_eq!("RDMSR of MSR_TEST_CTRL is #GP", fault(rdmsr_safe(MSR_TEST_CTRL).map(drop)), gp);
    let set = fault(wrmsr_safe(MSR_TEST_CTRL, TestCtrl::SPLIT_LOCK_DETECT.bits()));
    check_eq!("WRMSR of MSR_TEST_CTRL is #GP", set, gp);
    check_eq!("WRMSR of 0 to MSR_TEST_CTRL is #GP", fault(wrmsr_safe(MSR_TEST_CTRL, 0)), gp);
    let read = fault(rdmsr_safe(IA32_CORE_CAPABILITIES).map(drop));
    check_eq!("RDMSR of IA32_CORE_CAPABILITIES is #GP", read, gp);
    check!("CPUID does not report IA32_CORE_CAPABILITIES", !cpuid_has(CORE_CAPABILITIES));
}

#[guest]
fn locks_often(g: &mut Guest) {
    fill(RAM, 2 * CACHE_LINE, 0);
    for _ in 0..g.arg(0) {
        insn::LOCK_SUB_M32_R32.native(RAM + CACHE_LINE - BEFORE_BORDER, 1);
    }
    let left = core::array::from_fn(|i| peek::<u8>(RAM + CACHE_LINE - BEFORE_BORDER + i as u64));
    let done = u64::from(0_u32.wrapping_sub(u32::from_le_bytes(left)));
    check_eq!("every locked operation was done once", done, g.arg(0));
}

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_BUS_LOCK_DETECTION_EXIT, KVM_BUS_LOCK_DETECTION_OFF, KVM_CAP_X86_BUS_LOCK_EXIT,
    };

    /// #AC is raised for unaligned accesses in ring 3 with CR0.AM and RFLAGS.AC set, and never else.
    #[kvm_test(accesses_at_every_alignment, params = [
    ring_3_am_ac: [1, 1, 3],
    ring_3_am: [1, 0, 3],
    ring_3_ac: [0, 1, 3],
    ring_0_am_ac: [1, 1, 0],
])]
    fn alignment_check_is_raised_where_the_architecture_says(
        t: &mut OneVcpu,
        setting: [u64; 3],
    ) -> TestResult {
        t.vcpu.set_args(&setting);
        t.vcpu.run_until_done()
    }

    /// What the host does about split locks of the programs that it runs.
    fn split_lock_detection() -> String {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let has_it = read("/proc/cpuinfo").lines().any(|line| {
            line.starts_with("flags")
                && line.split_whitespace().any(|flag| flag == "split_lock_detect")
        });
        let cmdline = read("/proc/cmdline");
        let option = cmdline.split_whitespace().find_map(|w| w.strip_prefix("split_lock_detect="));
        if has_it { option.unwrap_or("warn").to_owned() } else { "absent".to_owned() }
    }

    /// A split lock has its effect and ends neither guest nor VM. A host that was told
    /// `split_lock_detect=fatal` gives userspace KVM_EXIT_EXCEPTION with #AC instead (kernel-parameters.txt).
    #[kvm_test(locks_across_borders, params = [ring_0: 0, ring_3: 3])]
    fn split_lock_has_its_effect(t: &mut OneVcpu, ring: u64) -> TestResult {
        let detection = split_lock_detection();
        log!("split lock detection of the host: {detection}");
        t.vcpu.set_args(&[ring]);
        if detection == "fatal" {
            // To the kernel the split lock is the thread's own, which it sends SIGBUS before KVM_RUN returns.
            let signals = vm::AlignmentSignals::count()?;
            let told = match t.vcpu.run_until_next()? {
                Next::Exit(stop) => {
                    stop.exit() == Exit::Exception { vector: vector::AC.into(), error_code: 0 }
                }
                _ => false,
            };
            check!("a fatal split lock is KVM_EXIT_EXCEPTION with #AC", told);
            check_eq!("a fatal split lock is one SIGBUS for misalignment", signals.taken(), 1);
            return Ok(());
        }
        t.vcpu.run_until_done()
    }

    /// Emulated by force, a split lock has the same effect: the emulator neither faults nor is faulted.
    #[kvm_test(locks_across_borders, requires(host::FORCED_EMULATION))]
    fn emulated_split_lock_has_its_effect(t: &mut OneVcpu) -> TestResult {
        t.vcpu.set_args(&[FORCED]);
        t.vcpu.run_until_done()
    }

    const DEVICE: u64 = layout::FREE;

    /// Locked operations on device memory: userspace sees each byte read and written once, and the guest
    /// what userspace answered, also where half of the operand is RAM.
    #[kvm_test(locks_what_it_is_told, params = [
    across_a_line: (DEVICE + CACHE_LINE, false),
    across_a_page: (DEVICE + PAGE, false),
    from_ram: (DEVICE + PAGE, true),
])]
    fn split_lock_on_device_memory(t: &mut OneVcpu, (border, from_ram): (u64, bool)) -> TestResult {
        if from_ram {
            t.vm.add_memory(1, 0, DEVICE, PAGE)?;
        }
        t.vcpu.run_until_sync(READY)?;
        let gpa = border - BEFORE_BORDER;
        let in_ram = if from_ram { BEFORE_BORDER as usize } else { 0 };
        for (nr, (what, _, result, memory)) in OPERATIONS.into_iter().enumerate() {
            let mut device = BEFORE.to_le_bytes();
            if from_ram {
                t.vm.mapping(0).write((PAGE - BEFORE_BORDER) as usize, &device[..in_ram]);
            }
            let (mut reads, mut writes) = ([0; 8], [0; 8]);
            t.vcpu.answer(&[nr as u64, gpa]);
            let got = loop {
                match t.vcpu.run_until_next()? {
                    Next::Exit(mut stop) => {
                        let Exit::Mmio { gpa: at, len, is_write } = stop.exit() else {
                            fail!("{:x?} instead of an MMIO exit", stop.exit());
                        };
                        let start = at.wrapping_sub(gpa) as usize;
                        let bytes = start..start.saturating_add(len as usize);
                        if bytes.end > device.len() {
                            fail!(
                                "an access to {at:#x}, {len} bytes, which the guest did not make"
                            );
                        }
                        if is_write {
                            device[bytes.clone()].copy_from_slice(stop.data());
                            bytes.for_each(|i| writes[i] += 1);
                        } else {
                            stop.set_data(&device[bytes.clone()]);
                            bytes.for_each(|i| reads[i] += 1);
                        }
                    }
                    Next::Sync([_, got, ..]) => break got,
                    Next::Done => fail!("the guest is done"),
                }
            };
            if from_ram {
                t.vm.mapping(0).read((PAGE - BEFORE_BORDER) as usize, &mut device[..in_ram]);
            }
            check_eq!("{what} returns what userspace answered", got, result);
            check_eq!("{what} stores its result", u64::from_le_bytes(device), memory);
            let width = if what.contains("CMPXCHG") { 8 } else { 4 };
            let once: [u32; 8] = std::array::from_fn(|i| u32::from(i >= in_ram && i < width));
            check_eq!("{what} reads each byte of the device once", reads, once);
            check_eq!("{what} writes each byte of the device once", writes, once);
        }
        t.vcpu.answer(&[u64::MAX]);
        t.vcpu.run_until_done()
    }

    /// Guests cannot see or switch the host's split lock detection.
    #[kvm_test(looks_for_detection, requires(host::UNKNOWN_MSRS_FAULT))]
    fn split_lock_detection_is_hidden(t: &mut OneVcpu) -> TestResult {
        for (name, index) in
            [("MSR_TEST_CTRL", MSR_TEST_CTRL), ("IA32_CORE_CAPABILITIES", IA32_CORE_CAPABILITIES)]
        {
            let entry = bindings::kvm_msr_entry { index, ..Default::default() };
            let mut msrs = bindings::Msrs::from_entries(&[entry])
                .map_err(|e| Failure::Error(format!("{e:?}")))?;
            let read = t.vcpu.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
            check_eq!("KVM_GET_MSRS does not return {name}", read, 0);
        }
        t.vcpu.run_until_done()
    }

    /// KVM_RUN_X86_BUS_LOCK in `kvm_run.flags` (api.rst 5).
    const RUN_X86_BUS_LOCK: u16 = 1 << 4;
    const BUS_LOCKS: u64 = 50;

    /// With KVM_BUS_LOCK_DETECTION_EXIT each bus lock is one exit, the flag is set in it and in no other,
    /// and the operation is done once (api.rst 7.23, 5 on KVM_EXIT_X86_BUS_LOCK).
    #[kvm_test(locks_often, requires(cap::X86_BUS_LOCK_EXIT))]
    fn each_bus_lock_is_an_exit(t: &mut OneVm) -> TestResult {
        let modes = t.vm.check_extension(KVM_CAP_X86_BUS_LOCK_EXIT) as u32;
        check_eq!(
            "both bus lock modes are offered",
            modes,
            KVM_BUS_LOCK_DETECTION_OFF | KVM_BUS_LOCK_DETECTION_EXIT
        );
        t.vm.enable_cap(KVM_CAP_X86_BUS_LOCK_EXIT, [KVM_BUS_LOCK_DETECTION_EXIT.into(), 0, 0, 0])
            .ioctl("KVM_ENABLE_CAP")?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(locks_often))?;
        vcpu.set_args(&[BUS_LOCKS]);
        let mut exits = 0;
        loop {
            match vcpu.run_until_next()? {
                Next::Exit(stop) if stop.exit() == Exit::BusLock => exits += 1,
                Next::Exit(stop) => fail!("{:x?} instead of a bus lock", stop.exit()),
                Next::Sync(_) => fail!("a sync"),
                Next::Done => break,
            }
            let flags = vcpu.kvm_run().flags;
            check!(
                "a bus lock's exit has KVM_RUN_X86_BUS_LOCK",
                flags & RUN_X86_BUS_LOCK != 0,
                "{flags:#x}"
            );
        }
        check_eq!("each bus lock is one exit", exits, BUS_LOCKS);
        let flags = vcpu.kvm_run().flags;
        check_eq!("an exit without a bus lock lacks the flag", flags & RUN_X86_BUS_LOCK, 0);
        Ok(())
    }

    /// Without that, bus locks are the guest's own: no exit, no flag.
    #[kvm_test(locks_often)]
    fn bus_locks_do_not_exit_by_default(t: &mut OneVcpu) -> TestResult {
        require!(split_lock_detection() != "fatal", "a host without split_lock_detect=fatal");
        t.vcpu.set_args(&[BUS_LOCKS]);
        t.vcpu.run_until_done()?;
        let flags = t.vcpu.kvm_run().flags;
        check_eq!("no exit has KVM_RUN_X86_BUS_LOCK by default", flags & RUN_X86_BUS_LOCK, 0);
        Ok(())
    }

    /// KVM_ENABLE_CAP(KVM_CAP_X86_BUS_LOCK_EXIT) refuses modes that are not there (api.rst 7.23).
    #[kvm_test]
    fn bus_lock_modes_are_checked(t: &mut OneVm) -> TestResult {
        let enable = |mode: u64| t.vm.enable_cap(KVM_CAP_X86_BUS_LOCK_EXIT, [mode, 0, 0, 0]);
        let [off, exit] = [KVM_BUS_LOCK_DETECTION_OFF, KVM_BUS_LOCK_DETECTION_EXIT].map(u64::from);
        check_eq!(
            "both bus lock modes at a time are EINVAL",
            enable(off | exit),
            Err(Errno::EINVAL)
        );
        for bit in [2, 31, 32, 63] {
            check_eq!(
                "a mode of unknown bit {bit} is EINVAL",
                enable(1 << bit),
                Err(Errno::EINVAL)
            );
            check_eq!(
                "unknown bit {bit} beside a mode is EINVAL",
                enable(off | 1 << bit),
                Err(Errno::EINVAL)
            );
        }
        Ok(())
    }
}
