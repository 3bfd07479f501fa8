//! General registers, FPU registers and MSRs by userspace: KVM_{GET,SET}_REGS (api.rst 4.11, 4.12),
//! KVM_{GET,SET}_FPU (4.22, 4.23), KVM_{GET,SET}_MSRS (4.18, 4.19), KVM_{GET,SET}_MP_STATE (4.38).
use crate::prelude::*;
use guest_runtime::arch::x86_64::state::{EXCHANGE_PORT, Gprs, Xmms, exchange_gprs, exchange_xmms};

const NAMES: [&str; 16] = [
    "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RSP", "RBP", "R8", "R9", "R10", "R11", "R12", "R13",
    "R14", "R15",
];
const RFLAGS_FIXED: u64 = Rflags::FIXED.bits();
const CF_ZF_DF: u64 = bits!(Rflags::{CF | ZF | DF});
const SF_OF_AC_ID: u64 = bits!(Rflags::{SF | OF | AC | ID});
const GUEST: u64 = 0x0123_4567_89ab_cdef;
const USERSPACE: u64 = 0xfedc_ba98_7654_3210;

/// A value of its own for every register.
fn pattern(base: u64) -> Gprs {
    core::array::from_fn(|i| base ^ (i as u64 * 0x0101_0101_0101_0101))
}

#[guest]
fn exchanges_gprs(_: &mut Guest) {
    let (taken, rflags) = exchange_gprs(&pattern(GUEST), CF_ZF_DF);
    for ((name, got), want) in NAMES.iter().zip(taken).zip(pattern(USERSPACE)) {
        check_eq!("the guest sees userspace's {name}", got, want);
    }
    check_eq!("the guest sees userspace's RFLAGS", rflags, SF_OF_AC_ID | RFLAGS_FIXED);
}

#[guest]
fn never_runs(_: &mut Guest) {
    panic!("this is not where userspace set RIP to");
}

#[guest]
fn set_as_start(g: &mut Guest) {
    check_eq!("the guest runs from the RIP that userspace set, with its RDI", g.vcpu(), 0);
}

fn xmm_pattern(base: u64) -> Xmms {
    core::array::from_fn(|i| [base ^ i as u64, base ^ (i as u64) << 32])
}

#[guest]
fn exchanges_xmms(_: &mut Guest) {
    let taken = exchange_xmms(&xmm_pattern(GUEST));
    for (i, (got, want)) in taken.iter().zip(xmm_pattern(USERSPACE)).enumerate() {
        check_eq!("the guest sees userspace's XMM{i}", *got, want);
    }
}

/// Lowest and highest canonical addresses of the upper half with 4-level paging, and one of the
/// lower half.
const UPPER: u64 = 0xffff_8000_0000_0000;
const LOWER: u64 = 0x0000_7fff_ffff_f000;

/// MSR, a value for userspace to write, one for the guest.
const MSRS: [(&str, u32, u64, u64); 11] = [
    ("STAR", msr::IA32_STAR, 0x0023_0010_dead_beef, 0x0013_0008_0000_0000),
    ("LSTAR", msr::IA32_LSTAR, UPPER, LOWER),
    ("CSTAR", msr::IA32_CSTAR, LOWER, UPPER),
    ("SFMASK", msr::IA32_FMASK, 0x0004_7700, 0x0000_0200),
    ("FS_BASE", msr::IA32_FS_BASE, UPPER, LOWER),
    ("GS_BASE", msr::IA32_GS_BASE, LOWER, UPPER),
    ("KERNEL_GS_BASE", msr::IA32_KERNEL_GS_BASE, u64::MAX, 1),
    ("SYSENTER_CS", msr::IA32_SYSENTER_CS, 0x10, 0x18),
    ("SYSENTER_ESP", msr::IA32_SYSENTER_ESP, 0x1234_5678, 0x7654_3210),
    ("SYSENTER_EIP", msr::IA32_SYSENTER_EIP, 0x2345_6789, 0x1765_4321),
    ("PAT", msr::IA32_PAT, 0x0706_0504_0100_0706, 0x0007_0406_0007_0406),
];

#[guest]
fn reads_and_writes_msrs(g: &mut Guest) {
    for (name, index, userspace, own) in MSRS {
        check_eq!("the guest reads userspace's {name}", rdmsr_safe(index), Ok(userspace));
        check_eq!("the guest may write {name}", wrmsr_safe(index, own), Ok(()));
    }
    g.sync(1, &[]);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
        KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_fpu, kvm_mp_state,
        kvm_msr_entry, kvm_regs,
    };

    const RF_VIF_VIP: u64 = bits!(Rflags::{RF | VIF | VIP});

    fn gprs(regs: &kvm_regs) -> Gprs {
        [
            regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rsp, regs.rbp,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ]
    }

    fn with_gprs(gprs: Gprs, rip: u64, rflags: u64) -> kvm_regs {
        let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15] = gprs;
        kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
        }
    }

    /// KVM_GET_REGS gives what the guest has in its registers, and the guest has what KVM_SET_REGS gave.
    #[kvm_test(exchanges_gprs)]
    fn guest_and_userspace_see_the_same_registers(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until(Exit::io_out(EXCHANGE_PORT))?;
        t.vcpu.complete_exit()?;
        let regs = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        for ((name, got), want) in NAMES.iter().zip(gprs(&regs)).zip(pattern(GUEST)) {
            check_eq!("userspace sees the guest's {name}", got, want);
        }
        let flags = regs.rflags;
        check_eq!("userspace sees the guest's RFLAGS", flags, CF_ZF_DF | RFLAGS_FIXED);
        let regs = with_gprs(pattern(USERSPACE), regs.rip, SF_OF_AC_ID | RFLAGS_FIXED);
        t.vcpu.fd().set_regs(&regs).ioctl("KVM_SET_REGS")?;
        t.vcpu.run_until_done()
    }

    /// Every field of KVM_SET_REGS comes back from KVM_GET_REGS.
    #[kvm_test]
    fn registers_round_trip(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let round_trip = |regs: kvm_regs| -> TestResult<kvm_regs> {
            vcpu.fd().set_regs(&regs).ioctl("KVM_SET_REGS")?;
            vcpu.fd().get_regs().ioctl("KVM_GET_REGS")
        };
        let ones = with_gprs([u64::MAX; 16], u64::MAX, RFLAGS_FIXED);
        check_eq!("registers of all ones round-trip", round_trip(ones)?, ones);
        let mixed = with_gprs(pattern(GUEST), 0x1234_5678_9abc, CF_ZF_DF | RFLAGS_FIXED);
        check_eq!("each register round-trips a value of its own", round_trip(mixed)?, mixed);
        let zeroes = with_gprs([0; 16], 0, 0);
        let got = round_trip(zeroes)?;
        check_eq!("RFLAGS bit 1 is always one", got.rflags, RFLAGS_FIXED);
        check_eq!("registers of all zeroes round-trip", gprs(&got), [0; 16]);
        for bit in [0, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 18, 21] {
            let flag = RFLAGS_FIXED | 1 << bit;
            let got = round_trip(with_gprs([0; 16], 0, flag))?.rflags;
            check_eq!("RFLAGS bit {bit} round-trips", got, flag);
        }
        let got = round_trip(with_gprs([0; 16], 0, RF_VIF_VIP | RFLAGS_FIXED))?.rflags;
        check_eq!("RF, VIF and VIP round-trip", got, RF_VIF_VIP | RFLAGS_FIXED);
        Ok(())
    }

    /// The guest goes on at the RIP that userspace sets.
    #[kvm_test(never_runs)]
    fn guest_runs_from_the_rip_that_userspace_sets(t: &mut OneVcpu) -> TestResult {
        t.vcpu.start_at(guest_fn!(set_as_start))?;
        t.vcpu.run_until_done()
    }

    fn to_bytes(xmms: Xmms) -> [[u8; 16]; 16] {
        xmms.map(|[low, high]| (u128::from(high) << 64 | u128::from(low)).to_le_bytes())
    }

    /// KVM_GET_FPU and KVM_SET_FPU carry the registers that the guest has.
    #[kvm_test(exchanges_xmms)]
    fn guest_and_userspace_see_the_same_xmm_registers(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until(Exit::io_out(EXCHANGE_PORT))?;
        t.vcpu.complete_exit()?;
        let mut fpu = t.vcpu.fd().get_fpu().ioctl("KVM_GET_FPU")?;
        for (i, (got, want)) in fpu.xmm.iter().zip(to_bytes(xmm_pattern(GUEST))).enumerate() {
            check_eq!("userspace sees the guest's XMM{i}", *got, want);
        }
        fpu.xmm = to_bytes(xmm_pattern(USERSPACE));
        t.vcpu.fd().set_fpu(&fpu).ioctl("KVM_SET_FPU")?;
        t.vcpu.run_until_done()
    }

    /// Every field of KVM_SET_FPU comes back, but MXCSR: KVM leaves that to KVM_SET_XSAVE.
    #[kvm_test]
    fn fpu_registers_round_trip(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        // 80-bit registers in 16 bytes each: the rest is reserved.
        let st = |i: u8| core::array::from_fn(|b| if b < 10 { i * 16 + b as u8 + 1 } else { 0 });
        let want = kvm_fpu {
            fpr: core::array::from_fn(|i| st(i as u8)),
            fcw: 0x027f,
            fsw: 0x3800,
            ftwx: 0xa5,
            last_opcode: 0x07ff,
            last_ip: 0x7fff_1234_5678,
            last_dp: 0x7fff_8765_4321,
            xmm: to_bytes(xmm_pattern(u64::MAX)),
            ..Default::default()
        };
        vcpu.fd().set_fpu(&want).ioctl("KVM_SET_FPU")?;
        let got = vcpu.fd().get_fpu().ioctl("KVM_GET_FPU")?;
        check_eq!("FPR0 to FPR7 round-trip", got.fpr, want.fpr);
        check_eq!("the FPU's FCW round-trips", got.fcw, want.fcw);
        check_eq!("the FPU's FSW round-trips", got.fsw, want.fsw);
        check_eq!("the abridged FTW round-trips", got.ftwx, want.ftwx);
        check_eq!("the FPU's FOP round-trips", got.last_opcode, want.last_opcode);
        check_eq!("the FPU's FIP round-trips", got.last_ip, want.last_ip);
        check_eq!("the FPU's FDP round-trips", got.last_dp, want.last_dp);
        check_eq!("XMM0 to XMM15 round-trip", got.xmm, want.xmm);
        Ok(())
    }
    const NON_CANONICAL: u64 = 0x8000_0000_0000_0000;

    fn set_msrs(vcpu: &Vcpu, entries: &[(u32, u64)]) -> TestResult<usize> {
        let entry =
            |&(index, data): &(u32, u64)| kvm_msr_entry { index, data, ..Default::default() };
        let entries: Vec<kvm_msr_entry> = entries.iter().map(entry).collect();
        let msrs = Msrs::from_entries(&entries).map_err(|e| Failure::Error(format!("{e:?}")))?;
        vcpu.fd().set_msrs(&msrs).ioctl("KVM_SET_MSRS")
    }

    /// How many entries KVM_GET_MSRS filled, and all the values.
    fn get_msrs(vcpu: &Vcpu, indices: &[u32]) -> TestResult<(usize, Vec<u64>)> {
        let entry = |&index: &u32| kvm_msr_entry { index, ..Default::default() };
        let entries: Vec<kvm_msr_entry> = indices.iter().map(entry).collect();
        let mut msrs =
            Msrs::from_entries(&entries).map_err(|e| Failure::Error(format!("{e:?}")))?;
        let filled = vcpu.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
        Ok((filled, msrs.as_slice().iter().map(|m| m.data).collect()))
    }

    /// MSRs that userspace writes are what the guest reads, and the other way round.
    #[kvm_test(reads_and_writes_msrs)]
    fn guest_and_userspace_see_the_same_msrs(t: &mut OneVcpu) -> TestResult {
        for (name, index, userspace, _) in MSRS {
            check_eq!("userspace may write {name}", set_msrs(&t.vcpu, &[(index, userspace)])?, 1);
            let got = get_msrs(&t.vcpu, &[index])?;
            check_eq!("userspace reads back the {name} that it wrote", got, (1, vec![userspace]));
        }
        t.vcpu.run_until_sync(1)?;
        for (name, index, _, own) in MSRS {
            let got = get_msrs(&t.vcpu, &[index])?;
            check_eq!("userspace reads the guest's {name}", got, (1, vec![own]));
        }
        t.vcpu.run_until_done()
    }

    /// Both ioctls stop at the first MSR that they refuse, and return its position.
    #[kvm_test(requires(host::UNKNOWN_MSRS_FAULT))]
    fn msr_lists_stop_at_the_first_refused_entry(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        set_msrs(&vcpu, &[(msr::IA32_STAR, 1), (msr::IA32_FMASK, 2)])?;
        let set = set_msrs(&vcpu, &[(msr::IA32_STAR, 3), (msr::UNKNOWN, 0), (msr::IA32_FMASK, 4)])?;
        check_eq!("KVM_SET_MSRS returns the refused entry's position", set, 1);
        let (_, values) = get_msrs(&vcpu, &[msr::IA32_STAR, msr::IA32_FMASK])?;
        check_eq!("KVM_SET_MSRS sets entries before the refused one only", values, [3, 2]);
        let (filled, values) = get_msrs(&vcpu, &[msr::IA32_STAR, msr::UNKNOWN, msr::IA32_FMASK])?;
        check_eq!("KVM_GET_MSRS returns the refused entry's position", filled, 1);
        check_eq!("KVM_GET_MSRS leaves entries behind the refused one", values, [3, 0, 0]);
        check_eq!(
            "KVM_SET_MSRS sets nothing if the first entry is refused",
            set_msrs(&vcpu, &[(msr::UNKNOWN, 0), (msr::IA32_STAR, 9)])?,
            0
        );
        check_eq!("KVM_SET_MSRS accepts an empty list", set_msrs(&vcpu, &[])?, 0);
        Ok(())
    }

    /// Values that WRMSR would fault on are refused, and the MSR keeps its value (SDM vol. 3, 4.1.5 of
    /// the MSR chapters; APM vol. 2, 3.1).
    #[kvm_test]
    fn msr_values_that_cannot_be_are_refused(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        for (name, index) in [
            ("LSTAR", msr::IA32_LSTAR),
            ("CSTAR", msr::IA32_CSTAR),
            ("FS_BASE", msr::IA32_FS_BASE),
            ("GS_BASE", msr::IA32_GS_BASE),
            ("KERNEL_GS_BASE", msr::IA32_KERNEL_GS_BASE),
        ] {
            set_msrs(&vcpu, &[(index, LOWER)])?;
            check_eq!(
                "a non-canonical {name} is refused",
                set_msrs(&vcpu, &[(index, NON_CANONICAL)])?,
                0
            );
            check_eq!("a refused {name} keeps its value", get_msrs(&vcpu, &[index])?.1, [LOWER]);
        }
        set_msrs(&vcpu, &[(msr::IA32_PAT, 0x0007_0406_0007_0406)])?;
        for kind in [2, 3, 8, 0x80] {
            check_eq!(
                "memory type {kind} in PAT is refused",
                set_msrs(&vcpu, &[(msr::IA32_PAT, kind << 56)])?,
                0
            );
        }
        check_eq!(
            "a refused PAT keeps its value",
            get_msrs(&vcpu, &[msr::IA32_PAT])?.1,
            [0x0007_0406_0007_0406]
        );
        Ok(())
    }

    /// Without a local APIC in the kernel, a vCPU is runnable and nothing else (api.rst 4.38, 4.39).
    #[kvm_test(requires(cap::MP_STATE))]
    fn mp_state_without_irqchip_is_runnable(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let get = || vcpu.fd().get_mp_state().map(|s| s.mp_state).ioctl("KVM_GET_MP_STATE");
        let set = |mp_state| vcpu.fd().set_mp_state(kvm_mp_state { mp_state }).errno();
        check_eq!("a new vCPU is runnable", get()?, KVM_MP_STATE_RUNNABLE);
        for (name, state) in [
            ("UNINITIALIZED", KVM_MP_STATE_UNINITIALIZED),
            ("INIT_RECEIVED", KVM_MP_STATE_INIT_RECEIVED),
            ("HALTED", KVM_MP_STATE_HALTED),
            ("SIPI_RECEIVED", KVM_MP_STATE_SIPI_RECEIVED),
        ] {
            check_eq!("state {name} is EINVAL without an irqchip", set(state), Err(Errno::EINVAL));
        }
        check_eq!("a state that does not exist is EINVAL", set(99), Err(Errno::EINVAL));
        check_eq!("RUNNABLE may be set without an irqchip", set(KVM_MP_STATE_RUNNABLE), Ok(()));
        check_eq!("the vCPU is still runnable after refused states", get()?, KVM_MP_STATE_RUNNABLE);
        Ok(())
    }

    /// With one, the states of the start-up protocol come back as they were set.
    #[kvm_test(requires(cap::MP_STATE), irqchip)]
    fn mp_states_round_trip(t: &mut OneVm) -> TestResult {
        let bsp = t.vm.create_vcpu(0)?;
        let ap = t.vm.create_vcpu(1)?;
        let get =
            |vcpu: &Vcpu| vcpu.fd().get_mp_state().map(|s| s.mp_state).ioctl("KVM_GET_MP_STATE");
        check_eq!("the boot processor is runnable at first", get(&bsp)?, KVM_MP_STATE_RUNNABLE);
        check_eq!(
            "an application processor waits for its INIT",
            get(&ap)?,
            KVM_MP_STATE_UNINITIALIZED
        );
        for (name, mp_state) in [
            ("HALTED", KVM_MP_STATE_HALTED),
            ("INIT_RECEIVED", KVM_MP_STATE_INIT_RECEIVED),
            ("UNINITIALIZED", KVM_MP_STATE_UNINITIALIZED),
            ("RUNNABLE", KVM_MP_STATE_RUNNABLE),
        ] {
            ap.fd().set_mp_state(kvm_mp_state { mp_state }).ioctl("KVM_SET_MP_STATE")?;
            check_eq!("MP state {name} reads as it was set", get(&ap)?, mp_state);
        }
        check_eq!("the boot processor is runnable all along", get(&bsp)?, KVM_MP_STATE_RUNNABLE);
        Ok(())
    }
}
