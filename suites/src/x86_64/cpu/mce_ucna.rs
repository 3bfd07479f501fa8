//! Uncorrected errors that need no action (UCNA), and the interrupt that tells of them: CMCI (SDM vol. 3,
//! "Corrected Machine Check Error Interrupt", "UCR Error Classification"; KVM_X86_SET_MCE, api.rst 4.107).
use crate::prelude::*;
use apic::{LVT_MASKED, LVT_NMI, reg};
use defs::x86::mce::{self, MciCtl2};
use msr::IA32_MCG_STATUS;

const VECTOR: u8 = 0x61;
const CMCI_EN: u64 = MciCtl2::CMCI_EN.bits();
const THRESHOLD: u64 = MciCtl2::THRESHOLD.bits();
const BANKS: u32 = 4;
const BANK: u32 = 2;
const READY: u64 = 1;
/// A port exit with interrupts on: what is pending is taken here at the latest.
const WINDOW_PORT: u16 = 0x92;

fn gp<T>(result: Result<T, Trap>) -> bool {
    result.err().map(|trap| trap.vector) == Some(vector::GP)
}

#[guest]
fn looks_for_cmci(_: &mut Guest) {
    for bank in [0, BANKS - 1] {
        check!("IA32_MC{bank}_CTL2 cannot be read", gp(rdmsr_safe(mce::ctl2(bank))));
        check!("IA32_MC{bank}_CTL2 cannot be written", gp(wrmsr_safe(mce::ctl2(bank), CMCI_EN)));
    }
    let apic = Apic::enable_x2apic();
    check!("the local APIC counts no LVT CMCI", apic.read(reg::VERSION) >> 16 & 0xff < 6);
    check!("LVT CMCI cannot be read", gp(rdmsr_safe(apic::x2apic_msr(reg::LVT_CMCI))));
    check!(
        "LVT CMCI cannot be written",
        gp(wrmsr_safe(apic::x2apic_msr(reg::LVT_CMCI), LVT_MASKED.into()))
    );
}

#[guest]
fn sets_ctl2(_: &mut Guest) {
    for bank in 0..BANKS {
        let ctl2 = mce::ctl2(bank);
        check_eq!("every bank's CTL2 is 0 at reset", rdmsr_safe(ctl2), Ok(0));
        check_eq!(
            "all defined bits of CTL2 can be set",
            wrmsr_safe(ctl2, CMCI_EN | THRESHOLD),
            Ok(())
        );
    }
    for bank in 0..BANKS {
        let value = CMCI_EN | u64::from(bank);
        wrmsr(mce::ctl2(bank), value);
        check_eq!("every bank's CTL2 reads as written", rdmsr(mce::ctl2(bank)), value);
    }
    for bit in [15, 29, 31, 32, 63] {
        let reserved = wrmsr_safe(mce::ctl2(BANK), CMCI_EN | 1 << bit);
        check!("a reserved bit of CTL2 is #GP", gp(reserved), "bit {bit}");
    }
    check_eq!(
        "a refused write leaves CTL2 unchanged",
        rdmsr(mce::ctl2(BANK)),
        CMCI_EN | u64::from(BANK)
    );
    check!("CTL2 behind the last bank cannot be read", gp(rdmsr_safe(mce::ctl2(BANKS))));
    check!("CTL2 behind the last bank cannot be written", gp(wrmsr_safe(mce::ctl2(BANKS), 0)));
}

#[guest]
fn sets_lvt_cmci(g: &mut Guest) {
    let apic = if g.arg(0) != 0 { Apic::enable_x2apic() } else { Apic::enable() };
    let lvts = apic.read(reg::VERSION) >> 16 & 0xff;
    check!("the local APIC counts an LVT CMCI", lvts >= 6, "{lvts}");
    check_eq!("LVT CMCI is masked at reset", apic.read(reg::LVT_CMCI), LVT_MASKED);
    for value in [LVT_NMI | 0x45, LVT_MASKED | 0xfe, u32::from(VECTOR)] {
        apic.write(reg::LVT_CMCI, value);
        check_eq!("LVT CMCI reads as written", apic.read(reg::LVT_CMCI), value);
    }
    apic.write(reg::SPIV, 0xff);
    let disabled = apic.read(reg::LVT_CMCI);
    check_eq!("switching the APIC off masks LVT CMCI", disabled, LVT_MASKED | u32::from(VECTOR));
    apic.write(reg::LVT_CMCI, VECTOR.into());
    let kept = apic.read(reg::LVT_CMCI) & LVT_MASKED;
    check_eq!("LVT CMCI cannot be unmasked while the APIC is off", kept, LVT_MASKED);
}

/// Arguments: whether there is CMCI, the bank's CTL2, LVT CMCI. Tells what one error came to.
#[guest]
fn takes_an_error(g: &mut Guest) {
    write_cr4(read_cr4() | Cr4::MCE.bits());
    let apic = Apic::enable();
    if g.arg(0) != 0 {
        wrmsr(mce::ctl2(BANK), g.arg(1));
        apic.write(reg::LVT_CMCI, g.arg(2) as u32);
    }
    let (mut cmcis, mut checks, mut nmis) = (0, 0, 0);
    let on_cmci = |_: &mut TrapFrame| {
        cmcis += 1;
        apic.eoi();
    };
    let on_check = |_: &mut TrapFrame| {
        checks += 1;
        wrmsr(IA32_MCG_STATUS, 0);
    };
    let body = || {
        g.sync(READY, &[]);
        sti();
        outb(WINDOW_PORT, 0);
        cli();
    };
    let with_nmis = || with_handler(vector::NMI, |_| nmis += 1, body);
    with_handler(VECTOR, on_cmci, || with_handler(vector::MC, on_check, with_nmis));
    let [status, addr, misc] = [mce::status(BANK), mce::addr(BANK), mce::misc(BANK)].map(rdmsr);
    let others = [0, 1, 3].map(|bank| rdmsr(mce::status(bank)));
    g.sync(READY, &[cmcis, checks, nmis, status, addr, misc, others[0] | others[1] | others[2]]);
}

#[host]
mod host {
    use super::*;
    use defs::x86::mce::{McgCap, McgStatus, MciStatus};
    use request::x86::{KVM_X86_GET_MCE_CAP_SUPPORTED, KVM_X86_SET_MCE, KVM_X86_SETUP_MCE};

    kvm_tests! { irqchip, requires(cap::MCE) }

    /// A memory controller's error, with neither address nor more.
    const UCNA: u64 = bits!(MciStatus::{VAL | UC | EN}) | 0x9f;
    const MCG_CMCI_P: u64 = McgCap::MCG_CMCI_P.bits();
    const MCG_SER_P: u64 = McgCap::MCG_SER_P.bits();
    const ADDRESS: u64 = 0x1234_5000;
    const MISC: u64 = 0x8c;

    fn supported() -> TestResult<u64> {
        let system = System::get()?;
        let mut caps = [0; 8];
        raw_ioctl(system, KVM_X86_GET_MCE_CAP_SUPPORTED, &mut caps)
            .ioctl("KVM_X86_GET_MCE_CAP_SUPPORTED")?;
        Ok(u64::from_ne_bytes(caps))
    }

    fn set_up(vcpu: &Vcpu, features: u64) -> TestResult {
        let mcg_cap = u64::from(BANKS) | features & supported()?;
        vcpu.raw(KVM_X86_SETUP_MCE, &mut mcg_cap.to_ne_bytes()).ioctl("KVM_X86_SETUP_MCE").map(drop)
    }

    fn require_cmci() -> TestResult {
        require!(supported()? & MCG_CMCI_P != 0, "MCG_CMCI_P in KVM_X86_GET_MCE_CAP_SUPPORTED");
        Ok(())
    }

    /// Without MCG_CMCI_P there are no CTL2 registers, and the local APIC has no LVT CMCI.
    #[kvm_test(looks_for_cmci, requires(cpu::X2APIC, host::UNKNOWN_MSRS_FAULT))]
    fn cmci_is_absent_unless_set_up(t: &mut OneVcpu) -> TestResult {
        set_up(&t.vcpu, 0)?;
        t.vcpu.run_until_done()
    }

    /// With MCG_CMCI_P each bank has a CTL2: CMCI enable and a threshold, all else reserved.
    #[kvm_test(sets_ctl2, requires(host::UNKNOWN_MSRS_FAULT))]
    fn every_bank_has_a_ctl2(t: &mut OneVcpu) -> TestResult {
        require_cmci()?;
        set_up(&t.vcpu, MCG_CMCI_P)?;
        t.vcpu.run_until_done()
    }

    /// With MCG_CMCI_P the local APIC has an LVT entry for CMCI (SDM vol. 3, "Local Vector Table").
    #[kvm_test(sets_lvt_cmci, requires(cpu::X2APIC), params = [xapic: 0, x2apic: 1])]
    fn local_apic_has_an_lvt_cmci(t: &mut OneVcpu, x2apic: u64) -> TestResult {
        require_cmci()?;
        set_up(&t.vcpu, MCG_CMCI_P)?;
        t.vcpu.set_args(&[x2apic]);
        t.vcpu.run_until_done()
    }

    /// What an error came to in the guest.
    #[derive(Debug, PartialEq)]
    struct Came {
        cmcis: u64,
        checks: u64,
        nmis: u64,
    }

    /// Injects an error with `status` and IA32_MCG_STATUS, and checks that the bank has it, and no other.
    fn inject(t: &mut OneVcpu, status: u64, mcg_status: u64) -> TestResult<Came> {
        t.vcpu.run_until_sync(READY)?;
        // `struct kvm_x86_mce`: status, addr, misc, mcg_status, bank, padding.
        let mut mce = [0; 64];
        for (at, word) in mce.chunks_exact_mut(8).zip([status, ADDRESS, MISC, mcg_status]) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        mce[32] = BANK as u8;
        t.vcpu.raw(KVM_X86_SET_MCE, &mut mce).ioctl("KVM_X86_SET_MCE")?;
        t.vcpu.run_until(Exit::io_out(WINDOW_PORT))?;
        let [cmcis, checks, nmis, bank_status, addr, misc, others, ..] =
            t.vcpu.run_until_sync(READY)?;
        check_eq!("the bank records the error's status", bank_status, status);
        check_eq!("the bank records the error's address", addr, ADDRESS);
        check_eq!("the bank records the error's other information", misc, MISC);
        check_eq!("no other bank records an error", others, 0);
        Ok(Came { cmcis, checks, nmis })
    }

    /// UCNA errors are logged and are no machine check; without CMCI nothing else comes of them.
    #[kvm_test(takes_an_error)]
    fn ucna_without_cmci_is_only_logged(t: &mut OneVcpu) -> TestResult {
        set_up(&t.vcpu, MCG_SER_P)?;
        let came = inject(t, UCNA, 0)?;
        check_eq!(
            "a UCNA error without CMCI interrupts nobody",
            came,
            Came { cmcis: 0, checks: 0, nmis: 0 }
        );
        Ok(())
    }

    /// An uncorrected error that needs action, or whose IA32_MCG_STATUS tells of a machine check, is one.
    #[kvm_test(takes_an_error, params = [
    context_corrupt: (bits!(MciStatus::{PCC}), 0),
    signaled: (bits!(MciStatus::{S}), 0),
    action_required: (bits!(MciStatus::{S | AR}), 0),
    machine_check_in_progress: (0, McgStatus::MCIP.bits()),
])]
    fn other_uncorrected_errors_are_machine_checks(
        t: &mut OneVcpu,
        (flag, mcg_status): (u64, u64),
    ) -> TestResult {
        let cmci = supported()? & MCG_CMCI_P;
        set_up(&t.vcpu, MCG_SER_P | cmci)?;
        t.vcpu.set_args(&[cmci, CMCI_EN | 1, VECTOR.into()]);
        let came = inject(t, UCNA | flag, mcg_status)?;
        check_eq!(
            "another uncorrected error is a machine check",
            came,
            Came { cmcis: 0, checks: 1, nmis: 0 }
        );
        Ok(())
    }

    /// How CMCI is set, and what a UCNA error comes to.
    #[derive(Clone, Copy)]
    struct Setting {
        ctl2: u64,
        lvt: u32,
        cmcis: u64,
        nmis: u64,
    }

    const ENABLED: Setting = Setting { ctl2: CMCI_EN, lvt: VECTOR as u32, cmcis: 1, nmis: 0 };

    /// A UCNA error raises CMCI where its bank's CTL2 enables it and the LVT entry is not masked; it is
    /// logged in any case.
    #[kvm_test(takes_an_error, params = [
    enabled: ENABLED,
    enabled_with_threshold: Setting { ctl2: CMCI_EN | 1, ..ENABLED },
    disabled: Setting { ctl2: THRESHOLD, cmcis: 0, ..ENABLED },
    masked: Setting { lvt: LVT_MASKED | VECTOR as u32, cmcis: 0, ..ENABLED },
    nmi: Setting { lvt: LVT_NMI, cmcis: 0, nmis: 1, ..ENABLED },
])]
    fn ucna_raises_cmci_where_enabled(t: &mut OneVcpu, setting: Setting) -> TestResult {
        require_cmci()?;
        set_up(&t.vcpu, MCG_SER_P | MCG_CMCI_P)?;
        t.vcpu.set_args(&[1, setting.ctl2, setting.lvt.into()]);
        let Setting { cmcis, nmis, .. } = setting;
        let came = inject(t, UCNA, 0)?;
        check_eq!(
            "a UCNA error raises CMCI exactly where it is enabled",
            came,
            Came { cmcis, checks: 0, nmis }
        );
        Ok(())
    }
}
