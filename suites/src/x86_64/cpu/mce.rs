//! Machine checks that userspace injects: KVM_X86_SET_MCE (api.rst 4.107; SDM vol. 3, "Machine-Check
//! Architecture").
use crate::prelude::*;
use defs::x86::mce::{self, McgStatus, MciStatus};
use msr::IA32_MCG_STATUS;

const BANK: u32 = 3;
/// What the bank says of an error.
const STATE: [u32; 3] = [mce::status(BANK), mce::addr(BANK), mce::misc(BANK)];
const CODE: u64 = 0x0151;
const ADDRESS: u64 = 0x1234_5000;
const MISC: u64 = 0x8c;
const READY: u64 = 1;

/// Takes machine checks and tells them: how many, IA32_MCG_STATUS, the bank's status, address and misc.
#[guest]
fn takes_machine_checks(g: &mut Guest) {
    let [cr4_mce, enabled] = [0, 1].map(|i| g.arg(i) != 0);
    let cr4 = read_cr4();
    write_cr4(if cr4_mce { cr4 | Cr4::MCE.bits() } else { cr4 & !Cr4::MCE.bits() });
    wrmsr(mce::ctl(BANK), if enabled { !0 } else { 0 });
    let (mut taken, mut status) = (0, 0);
    let on_check = |_: &mut TrapFrame| {
        taken += 1;
        status = rdmsr(IA32_MCG_STATUS);
        // Until it is clear, another machine check shuts the CPU down.
        wrmsr(IA32_MCG_STATUS, 0);
    };
    with_handler(vector::MC, on_check, || {
        g.sync(READY, &[]);
    });
    let bank = STATE.map(rdmsr);
    g.sync(READY, &[taken, status, bank[0], bank[1], bank[2]]);
    STATE.iter().for_each(|msr| wrmsr(*msr, 0));
    check_eq!("the guest can clear the bank's status", rdmsr(mce::status(BANK)), 0);
    let bad = wrmsr_safe(mce::status(BANK), 1).err().map(|trap| trap.vector);
    check!(
        "a status of another value than 0 is #GP, or kept",
        bad == Some(vector::GP) || rdmsr(mce::status(BANK)) == 1
    );
}

#[host]
mod host {
    use super::*;
    use request::x86::{KVM_X86_SET_MCE, KVM_X86_SETUP_MCE};

    kvm_tests! { requires(cap::MCE) }

    const BANKS: u64 = 8;
    const CORRECTED: u64 = bits!(MciStatus::{VAL | EN | ADDRV | MISCV}) | CODE;
    const UNCORRECTED: u64 = CORRECTED | MciStatus::UC.bits();

    /// A guest at its first sync, with machine checks on in CR4 and in the bank as said.
    fn start(t: &mut OneVcpu, cr4_mce: bool, bank_enabled: bool) -> TestResult {
        let mut mcg_cap = BANKS.to_ne_bytes();
        t.vcpu.raw(KVM_X86_SETUP_MCE, &mut mcg_cap).ioctl("KVM_X86_SETUP_MCE")?;
        t.vcpu.set_args(&[cr4_mce.into(), bank_enabled.into()]);
        t.vcpu.run_until_sync(READY).map(drop)
    }

    fn inject(vcpu: &Vcpu, status: u64) -> Result<(), Errno> {
        // `struct kvm_x86_mce`: status, addr, misc, mcg_status, bank, padding.
        let mut mce = [0; 64];
        for (i, word) in
            [status, ADDRESS, MISC, bits!(McgStatus::{MCIP | RIPV})].into_iter().enumerate()
        {
            mce[8 * i..8 * i + 8].copy_from_slice(&word.to_ne_bytes());
        }
        mce[32] = BANK as u8;
        vcpu.raw(KVM_X86_SET_MCE, &mut mce).map(drop)
    }

    /// An uncorrected error is #MC with everything that userspace gave in the bank.
    #[kvm_test(takes_machine_checks)]
    fn uncorrected_error_is_a_machine_check(t: &mut OneVcpu) -> TestResult {
        start(t, true, true)?;
        inject(&t.vcpu, UNCORRECTED).ioctl("KVM_X86_SET_MCE")?;
        let [taken, mcg_status, status, addr, misc, ..] = t.vcpu.run_until_sync(READY)?;
        check_eq!("an uncorrected error is exactly one machine check", taken, 1);
        check_eq!(
            "IA32_MCG_STATUS is as userspace gave it",
            mcg_status,
            bits!(McgStatus::{MCIP | RIPV})
        );
        check_eq!("the bank's status is as userspace gave it", status, UNCORRECTED);
        check_eq!("the bank's address is as userspace gave it", addr, ADDRESS);
        check_eq!("the bank's other information is as userspace gave it", misc, MISC);
        t.vcpu.run_until_done()
    }

    /// A corrected error is in the bank and interrupts nobody; a second one is told as an overflow.
    #[kvm_test(takes_machine_checks, params = [once: 1, twice: 2])]
    fn corrected_error_is_only_recorded(t: &mut OneVcpu, times: u32) -> TestResult {
        start(t, true, true)?;
        for _ in 0..times {
            inject(&t.vcpu, CORRECTED).ioctl("KVM_X86_SET_MCE")?;
        }
        let [taken, _, status, addr, misc, ..] = t.vcpu.run_until_sync(READY)?;
        check_eq!("a corrected error is no machine check", taken, 0);
        check_eq!(
            "the bank's status is as userspace gave it",
            status & !MciStatus::OVER.bits(),
            CORRECTED
        );
        check_eq!("OVER is set by a second error", status & MciStatus::OVER.bits() != 0, times > 1);
        check_eq!("the bank's address is as userspace gave it", addr, ADDRESS);
        check_eq!("the bank's other information is as userspace gave it", misc, MISC);
        t.vcpu.run_until_done()
    }

    /// An uncorrected error of a bank whose reporting the guest has switched off is ignored.
    #[kvm_test(takes_machine_checks, moved)]
    fn disabled_bank_reports_nothing(t: &mut OneVcpu) -> TestResult {
        start(t, true, false)?;
        inject(&t.vcpu, UNCORRECTED).ioctl("KVM_X86_SET_MCE")?;
        let [taken, _, status, ..] = t.vcpu.run_until_sync(READY)?;
        check_eq!("an error of a disabled bank is no machine check", taken, 0);
        check_eq!("a disabled bank records no error", status, 0);
        t.vcpu.run_until_done()
    }

    /// An uncorrected error with CR4.MCE clear, or while another one is being handled, is a shutdown.
    #[kvm_test(takes_machine_checks, params = [without_cr4_mce: false, in_progress: true])]
    fn machine_check_that_cannot_be_taken_is_a_shutdown(
        t: &mut OneVcpu,
        cr4_mce: bool,
    ) -> TestResult {
        start(t, cr4_mce, true)?;
        if cr4_mce {
            let entry = bindings::kvm_msr_entry {
                index: IA32_MCG_STATUS,
                data: McgStatus::MCIP.bits(),
                ..Default::default()
            };
            let msrs = bindings::Msrs::from_entries(&[entry])
                .map_err(|e| Failure::Error(format!("{e:?}")))?;
            let set = t.vcpu.fd().set_msrs(&msrs).ioctl("KVM_SET_MSRS")?;
            check_eq!("userspace can write IA32_MCG_STATUS", set, 1);
        }
        inject(&t.vcpu, UNCORRECTED).ioctl("KVM_X86_SET_MCE")?;
        let shutdown = match t.vcpu.run_until_next()? {
            Next::Exit(stop) => stop.exit() == Exit::Shutdown,
            _ => false,
        };
        check!("KVM_RUN exits with KVM_EXIT_SHUTDOWN", shutdown);
        Ok(())
    }
}
