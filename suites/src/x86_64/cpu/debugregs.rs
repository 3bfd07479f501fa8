//! Debug registers: KVM_{GET,SET}_DEBUGREGS (api.rst 4.33, 4.34).
use crate::prelude::*;
use defs::x86::debug::{Dr6, Dr7};

/// Addresses that no instruction of the guest touches.
const USERSPACE_DB: [u64; 4] =
    [0x7fff_0000_1000, 0xffff_8000_0000_2000, 0xdead_b000, 0xffff_ffff_ffff_f000];
/// Breakpoint 3 on writes of eight bytes.
const GUEST_DR7: u64 = bits!(Dr7::{FIXED | G3 | RW3_WRITE | LEN3_8});
const GUEST_DB: [u64; 4] = [0x1111_0000_0000, 0x2222_0000, 0x3333, 0xffff_ffff_0000_4444];

#[guest]
fn compares_debug_registers(g: &mut Guest) {
    g.sync(1, &[]);
    let db = [read_dr0(), read_dr1(), read_dr2(), read_dr3()];
    check_eq!("the guest sees userspace's DR0 to DR3", db, USERSPACE_DB);
    check_eq!("the guest sees userspace's DR6", read_dr6(), bits!(Dr6::{FIXED | BS}));
    check_eq!("the guest sees userspace's DR7", read_dr7(), bits!(Dr7::{FIXED | L0}));
    write_dr0(GUEST_DB[0]);
    write_dr1(GUEST_DB[1]);
    write_dr2(GUEST_DB[2]);
    write_dr3(GUEST_DB[3]);
    write_dr6(bits!(Dr6::{FIXED | B0}));
    write_dr7(GUEST_DR7);
    g.sync(2, &[]);
    write_dr7(Dr7::FIXED.bits());
}

#[host]
mod host {
    use super::*;
    use vm::bindings::kvm_debugregs;

    kvm_tests! { requires(cap::DEBUGREGS) }

    fn get(vcpu: &Vcpu) -> TestResult<kvm_debugregs> {
        vcpu.fd().get_debug_regs().ioctl("KVM_GET_DEBUGREGS")
    }

    fn set(vcpu: &Vcpu, regs: &kvm_debugregs) -> Result<(), Errno> {
        vcpu.fd().set_debug_regs(regs).errno()
    }

    /// The guest reads the debug registers that userspace set, and userspace those that the guest wrote.
    #[kvm_test(compares_debug_registers, moved)]
    fn guest_and_userspace_see_the_same_debug_registers(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(1)?;
        t.vcpu.complete_exit()?;
        let (dr6, dr7) = (bits!(Dr6::{FIXED | BS}), bits!(Dr7::{FIXED | L0}));
        let regs = kvm_debugregs { db: USERSPACE_DB, dr6, dr7, ..Default::default() };
        set(&t.vcpu, &regs).ioctl("KVM_SET_DEBUGREGS")?;
        t.vcpu.run_until_sync(2)?;
        let got = get(&t.vcpu)?;
        check_eq!("userspace sees the guest's DR0 to DR3", got.db, GUEST_DB);
        check_eq!("userspace sees the guest's DR6", got.dr6, bits!(Dr6::{FIXED | B0}));
        check_eq!("userspace sees the guest's DR7", got.dr7, GUEST_DR7);
        t.vcpu.run_until_done()
    }

    /// A new vCPU has the debug registers of a reset (SDM vol. 3, table "IA-32 processor states").
    #[kvm_test]
    fn debug_registers_start_as_after_reset(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let regs = get(&vcpu)?;
        check_eq!("DR0 to DR3 are 0 after reset", regs.db, [0; 4]);
        check_eq!("DR6 has only its fixed bits after reset", regs.dr6, Dr6::FIXED.bits());
        check_eq!("DR7 has only its fixed bit after reset", regs.dr7, Dr7::FIXED.bits());
        check_eq!("flags of kvm_debugregs are 0 after reset", regs.flags, 0);
        check_eq!("reserved fields of kvm_debugregs are 0", regs.reserved, [0; 9]);
        Ok(())
    }

    /// Every field comes back; flags, and bits that the registers do not have, are EINVAL and change
    /// nothing.
    #[kvm_test]
    fn debug_registers_round_trip_or_are_refused(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let ones = kvm_debugregs {
            db: [u64::MAX; 4],
            dr6: bits!(Dr6::{FIXED | BS | B0}),
            dr7: Dr7::FIXED.bits() | 0xffff_03ff,
            ..Default::default()
        };
        set(&vcpu, &ones).ioctl("KVM_SET_DEBUGREGS")?;
        let got = get(&vcpu)?;
        check_eq!("all-ones breakpoint addresses are kept", got.db, ones.db);
        check_eq!("DR6's settable bits are kept", got.dr6, ones.dr6);
        check_eq!("DR7's settable bits are kept", got.dr7, ones.dr7);
        let own = kvm_debugregs { db: [1, 2, 3, 4], ..ones };
        set(&vcpu, &own).ioctl("KVM_SET_DEBUGREGS")?;
        check_eq!("each breakpoint register keeps a value of its own", get(&vcpu)?.db, own.db);

        let before = get(&vcpu)?;
        for bit in 0..64 {
            let bad = kvm_debugregs { db: [9; 4], flags: 1 << bit, ..own };
            check_eq!("any flag of kvm_debugregs is EINVAL", set(&vcpu, &bad), Err(Errno::EINVAL));
        }
        for bit in 32..64 {
            let bad = kvm_debugregs { db: [9; 4], dr6: own.dr6 | 1 << bit, ..own };
            check_eq!("a bit in DR6's high half is EINVAL", set(&vcpu, &bad), Err(Errno::EINVAL));
            let bad = kvm_debugregs { db: [9; 4], dr7: own.dr7 | 1 << bit, ..own };
            check_eq!("a bit in DR7's high half is EINVAL", set(&vcpu, &bad), Err(Errno::EINVAL));
        }
        let after = get(&vcpu)?;
        check_eq!("refused debug registers change nothing", after, before);
        Ok(())
    }
}
