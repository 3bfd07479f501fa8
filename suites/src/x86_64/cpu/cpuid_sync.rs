//! CPUID bits and sizes that follow other state: CR4, IA32_APIC_BASE, IA32_MISC_ENABLE, XCR0 (SDM vol. 2,
//! CPUID; vol. 1, "Managing State Using the XSAVE Feature Set"). What userspace sets in XCR0: `xsave`.
use crate::prelude::*;
use cpuid::{feature, leaf};
use defs::x86::xsave::{Xcr0, area};
use msr::{IA32_APIC_BASE, IA32_MISC_ENABLE};

const READY: u64 = 1;
/// Stands for CR4 among the MSRs that a feature may follow.
const CR4: u32 = u32::MAX;

/// Arguments: the MSR (or [`CR4`]) and its bit; leaf, register and bit of CPUID that follow (subleaf 0).
#[guest]
fn looks_at_cpuid(g: &mut Guest) {
    let [register, leaf, word, shown] = [0, 2, 3, 4].map(|i| g.arg(i) as u32);
    let bit = g.arg(1);
    let shows = || cpuid(leaf, 0)[word as usize] >> shown & 1 != 0;
    let with = |value: u64, on| if on { value | bit } else { value & !bit };
    for on in [true, false, true, false] {
        match register {
            CR4 => write_cr4(with(read_cr4(), on)),
            msr => wrmsr(msr, with(rdmsr(msr), on)),
        }
        check_eq!("CPUID follows the bit that the guest sets", shows(), on);
    }
    for _ in 0..4 {
        let [on, ..] = g.sync(READY, &[]);
        check_eq!("CPUID follows the bit that userspace sets", shows(), on != 0);
    }
}

/// Components that may be set in XCR0.
fn supported() -> u64 {
    let [low, _, _, high] = cpuid(leaf::XSAVE, 0);
    u64::from(high) << 32 | u64::from(low)
}

fn faults(result: Result<(), Trap>, vector: u8) -> bool {
    result.err().map(|trap| trap.vector) == Some(vector)
}

#[guest]
fn tries_xsetbv(g: &mut Guest) {
    write_cr4(read_cr4() & !Cr4::OSXSAVE.bits());
    check!(
        "XSETBV without CR4.OSXSAVE is #UD",
        faults(xsetbv_safe(0, Xcr0::X87.bits()), vector::UD)
    );
    write_cr4(read_cr4() | Cr4::OSXSAVE.bits());
    for (what, value) in [
        ("nothing", 0),
        ("SSE without x87", bits!(Xcr0::{SSE})),
        ("AVX without SSE", bits!(Xcr0::{X87 | AVX})),
        ("one half of MPX", bits!(Xcr0::{X87 | SSE | BNDREGS})),
        ("the other half of MPX", bits!(Xcr0::{X87 | SSE | BNDCSR})),
        ("AVX-512 without AVX", bits!(Xcr0::{X87 | SSE | OPMASK | ZMM_HI256 | HI16_ZMM})),
        ("AVX-512 without opmasks", bits!(Xcr0::{X87 | SSE | AVX | ZMM_HI256 | HI16_ZMM})),
        ("AVX-512 without upper halves", bits!(Xcr0::{X87 | SSE | AVX | OPMASK | HI16_ZMM})),
        ("AVX-512 without upper registers", bits!(Xcr0::{X87 | SSE | AVX | OPMASK | ZMM_HI256})),
        ("tile configuration without tiles", bits!(Xcr0::{X87 | SSE | TILECFG})),
        ("tiles without their configuration", bits!(Xcr0::{X87 | SSE | TILEDATA})),
        ("the supervisor's component 8", bits!(Xcr0::{X87 | SSE}) | 1 << 8),
        ("bit 62", bits!(Xcr0::{X87 | SSE}) | 1 << 62),
        ("bit 63", bits!(Xcr0::{X87 | SSE}) | 1 << 63),
        ("everything", u64::MAX),
    ] {
        check!("{what} in XCR0 is #GP", faults(xsetbv_safe(0, value), vector::GP));
    }
    for index in [1, 2, 0x8000_0000, u32::MAX] {
        check!(
            "XCR{index:#x} cannot be written",
            faults(xsetbv_safe(index, Xcr0::X87.bits()), vector::GP)
        );
    }
    g.sync(READY, &[]);
    for value in [bits!(Xcr0::{X87 | SSE}), bits!(Xcr0::{X87}), supported()] {
        check_eq!("a legal value of XCR0 is accepted", xsetbv_safe(0, value), Ok(()));
    }
    g.sync(READY, &[supported()]);
}

/// Bytes that the components of `xcr0` take in the standard and in the compacted format.
fn sizes(xcr0: u64) -> [u32; 2] {
    let (mut standard, mut compacted) = (area::EXTENDED, area::EXTENDED);
    for component in (2..63).filter(|c| xcr0 >> c & 1 != 0) {
        let [size, offset, flags, _] = cpuid(leaf::XSAVE, component);
        standard = standard.max(offset + size);
        let aligned = flags >> 1 & 1 != 0;
        compacted = if aligned { compacted.next_multiple_of(64) } else { compacted } + size;
    }
    [standard, compacted]
}

#[guest]
fn compares_sizes(_: &mut Guest) {
    write_cr4(read_cr4() | Cr4::OSXSAVE.bits());
    let [_, _, most, _] = cpuid(leaf::XSAVE, 0);
    check_eq!("ECX is the size of all XSAVE components", most, sizes(supported())[0]);
    let x87 = Xcr0::X87.bits();
    let avx = bits!(Xcr0::{X87 | SSE | AVX}) & supported();
    for xcr0 in [x87, bits!(Xcr0::{X87 | SSE}), avx, supported(), x87] {
        check_eq!("XSETBV accepts what CPUID offers", xsetbv_safe(0, xcr0), Ok(()));
        let [_, enabled, still, _] = cpuid(leaf::XSAVE, 0);
        check_eq!("ECX does not follow XCR0", still, most);
        check_eq!("EBX is the size of what XCR0 enables", enabled, sizes(xcr0)[0]);
        let compacted = cpuid(leaf::XSAVE, 1)[1];
        check_eq!("EBX of subleaf 1 is the compacted size of XCR0", compacted, sizes(xcr0)[1]);
    }
}

#[host]
mod host {
    use super::*;
    use {
        apic::ApicBase,
        bindings::{KVM_CAP_DISABLE_QUIRKS2, Msrs, kvm_msr_entry},
        cpuid::Feature,
        msr::MiscEnable,
    };

    /// A bit that CPUID shows, of what.
    #[derive(Clone, Copy)]
    struct Follows {
        register: u32,
        bit: u64,
        shown: Feature,
        /// The CPUID bit, if any, that offers the feature.
        offered: Option<Feature>,
    }

    /// `KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT`.
    const MISC_ENABLE_NO_MWAIT: u64 = 1 << 4;

    const OSXSAVE: Follows = Follows {
        register: CR4,
        bit: Cr4::OSXSAVE.bits(),
        shown: feature::OSXSAVE,
        offered: Some(feature::XSAVE),
    };
    const OSPKE: Follows = Follows {
        register: CR4,
        bit: Cr4::PKE.bits(),
        shown: feature::OSPKE,
        offered: Some(feature::PKU),
    };
    const APIC: Follows = Follows {
        register: IA32_APIC_BASE,
        bit: ApicBase::EN.bits(),
        shown: feature::APIC,
        offered: None,
    };
    /// KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT.
    const MONITOR: Follows = Follows {
        register: IA32_MISC_ENABLE,
        bit: MiscEnable::MWAIT.bits(),
        shown: feature::MONITOR,
        offered: None,
    };

    fn set(vcpu: &Vcpu, register: u32, bit: u64, on: bool) -> TestResult {
        let with = |value: u64| if on { value | bit } else { value & !bit };
        if register == IA32_MISC_ENABLE {
            let entry = kvm_msr_entry { index: register, ..Default::default() };
            let mut msrs =
                Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
            vcpu.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
            msrs.as_mut_slice()[0].data = with(msrs.as_slice()[0].data);
            let taken = vcpu.fd().set_msrs(&msrs).ioctl("KVM_SET_MSRS")?;
            check_eq!("userspace may set the bit that CPUID follows", taken, 1);
            return Ok(());
        }
        let mut sregs = vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        let value = if register == CR4 { &mut sregs.cr4 } else { &mut sregs.apic_base };
        *value = with(*value);
        vcpu.fd().set_sregs(&sregs).ioctl("KVM_SET_SREGS")
    }

    /// A bit of CPUID is set while the bit that it follows is, whoever sets that.
    #[kvm_test(looks_at_cpuid, irqchip, params = [
    osxsave: OSXSAVE,
    ospke: OSPKE,
    apic: APIC,
    monitor: MONITOR,
])]
    fn cpuid_bit_follows(t: &mut OneVcpu, f: Follows) -> TestResult {
        if f.register == IA32_MISC_ENABLE {
            let quirks = t.vm.check_extension(KVM_CAP_DISABLE_QUIRKS2) as u64;
            require!(quirks & MISC_ENABLE_NO_MWAIT != 0, "KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT");
            t.vm.enable_cap(KVM_CAP_DISABLE_QUIRKS2, [MISC_ENABLE_NO_MWAIT, 0, 0, 0])
                .ioctl("KVM_ENABLE_CAP(KVM_CAP_DISABLE_QUIRKS2)")?;
        }
        if let Some(offered) = f.offered {
            let has = t.vm.cpuid_mut().as_slice().iter().any(|e| {
                let words = [e.eax, e.ebx, e.ecx, e.edx];
                (e.function, e.index) == (offered.leaf, offered.subleaf) && offered.is_set(words)
            });
            require!(has, "bit {} of CPUID leaf {}", offered.bit, offered.leaf);
        }
        let Feature { leaf, register, bit, .. } = f.shown;
        t.vcpu.set_args(&[f.register.into(), f.bit, leaf.into(), register as u64, bit.into()]);
        for on in [true, false, true, false] {
            t.vcpu.run_until_sync(READY)?;
            t.vcpu.complete_exit()?;
            set(&t.vcpu, f.register, f.bit, on)?;
            t.vcpu.answer(&[on.into()]);
        }
        t.vcpu.run_until_done()
    }

    /// XSETBV takes what CPUID offers, x87 always and AVX, AVX-512, MPX and AMX as wholes; all else is #GP
    /// (SDM vol. 2, XSETBV; vol. 1, 13.3).
    #[kvm_test(tries_xsetbv, requires(cap::XCRS, cpu::XSAVE))]
    fn xsetbv_takes_whole_features(t: &mut OneVcpu) -> TestResult {
        let xcr0 = |t: &OneVcpu| -> TestResult<u64> {
            Ok(t.vcpu.fd().get_xcrs().ioctl("KVM_GET_XCRS")?.xcrs[0].value)
        };
        t.vcpu.run_until_sync(READY)?;
        check_eq!("a refused XSETBV leaves XCR0 unchanged", xcr0(t)?, Xcr0::X87.bits());
        let [all, ..] = t.vcpu.run_until_sync(READY)?;
        check_eq!("userspace reads the XCR0 that the guest wrote", xcr0(t)?, all);
        t.vcpu.run_until_done()
    }

    /// The sizes in CPUID leaf 0xd follow the guest's XCR0 (SDM vol. 1, 13.2).
    #[kvm_test(requires(cpu::XSAVE))]
    fn sizes_follow_xcr0(t: &mut OneVm) -> TestResult {
        // The sizes are KVM's to tell, whether the host has the instruction or not.
        for entry in t.vm.cpuid_mut().as_mut_slice() {
            if (entry.function, entry.index) == (leaf::XSAVE, 1) {
                entry.eax |= feature::XSAVEC.mask();
            }
        }
        t.vm.add_vcpu(0, guest_fn!(compares_sizes))?.run_until_done()
    }
}
