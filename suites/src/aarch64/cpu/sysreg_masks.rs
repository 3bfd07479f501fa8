//! Feature id registers that userspace can write (api.rst 4.139, KVM_ARM_GET_REG_WRITABLE_MASKS), and
//! what every vCPU's register list has.
use crate::prelude::*;

/// Registers whose fields are tried one by one.
const IDS: [SysReg; 8] = [
    ID_AA64PFR0_EL1,
    ID_AA64DFR0_EL1,
    ID_AA64ISAR0_EL1,
    ID_AA64ISAR1_EL1,
    ID_AA64MMFR0_EL1,
    ID_AA64MMFR1_EL1,
    ID_AA64MMFR2_EL1,
    ID_AA64ZFR0_EL1,
];

#[guest]
fn reads_ids(g: &mut Guest) {
    let values = IDS.map(|r| r.read());
    g.sync(1, &values);
}

#[guest]
fn idles(_: &mut Guest) {}

#[host]
mod host {
    use super::*;
    use crate::aarch64::cpu::sysreg::register_list;
    use std::collections::HashSet;
    use vm::arch::feature_id;

    /// `KVM_ARM_GET_REG_WRITABLE_MASKS` has one range, and reserved words that are zero.
    #[kvm_test(reads_ids, requires(cap::ARM_SUPPORTED_REG_MASK_RANGES))]
    fn masks_are_given_for_range_0(t: &mut OneVcpu) -> TestResult {
        let ranges = t.vm.check_extension(vm::bindings::KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES);
        check_eq!("the capability reports range 0", ranges & 1, 1);
        check!("masks of range 0 are returned", t.vm.writable_masks(0, 0).is_ok());
        check_eq!(
            "masks of range 1 are EINVAL",
            t.vm.writable_masks(1, 0).err(),
            Some(Errno::EINVAL)
        );
        check_eq!(
            "reserved words that are not 0 are EINVAL",
            t.vm.writable_masks(0, 1).err(),
            Some(Errno::EINVAL)
        );
        let masks = t.vm.writable_masks(0, 0).ioctl("KVM_ARM_GET_REG_WRITABLE_MASKS")?;
        check!("at least one register is writable", masks.iter().any(|&mask| mask != 0));
        check_eq!("MPIDR_EL1 is not writable", masks[feature_id(&MPIDR_EL1)], 0);
        for register in IDS {
            let name = register.name;
            let value = t.vcpu.get_sysreg(&register).ioctl("KVM_GET_ONE_REG")?;
            check_eq!("{name} accepts its own value", t.vcpu.set_sysreg(&register, value), Ok(()));
            let fixed = !masks[feature_id(&register)];
            // One field of four bits at a time: a change outside of the mask is refused.
            for shift in (0..64).step_by(4).filter(|shift| fixed >> shift & 0xf == 0xf) {
                let set = t.vcpu.set_sysreg(&register, value ^ 1 << shift);
                check!(
                    "a fixed field of {name} is EINVAL",
                    set == Err(Errno::EINVAL),
                    "bit {shift}: {set:?}"
                );
            }
        }
        Ok(())
    }

    /// What is set before the first KVM_RUN is what the guest reads; after it a change is EBUSY.
    #[kvm_test(reads_ids, requires(cap::ARM_SUPPORTED_REG_MASK_RANGES))]
    fn guest_reads_what_userspace_left(t: &mut OneVcpu) -> TestResult {
        let masks = t.vm.writable_masks(0, 0).ioctl("KVM_ARM_GET_REG_WRITABLE_MASKS")?;
        let mut want = [0; IDS.len()];
        let mut all = [0; IDS.len()];
        let mut lowered = 0;
        for ((register, want), before) in IDS.into_iter().zip(&mut want).zip(&mut all) {
            *before = t.vcpu.get_sysreg(&register).ioctl("KVM_GET_ONE_REG")?;
            *want = *before;
            let mask = masks[feature_id(&register)];
            for shift in (0..64).step_by(4) {
                let field = 0xf << shift;
                // Fields whose 0 means "not there"; a field that means something else may be refused.
                if mask & field == field && *want & field != 0 {
                    let less = *want & !field;
                    if t.vcpu.set_sysreg(&register, less).is_ok() {
                        *want = less;
                        lowered += 1;
                    }
                }
            }
            let name = register.name;
            check_eq!(
                "{name} reads back as userspace set it",
                t.vcpu.get_sysreg(&register),
                Ok(*want)
            );
        }
        check!("at least one feature can be taken away", lowered > 0);
        let seen = t.vcpu.run_until_sync(1)?;
        for (((register, want), before), seen) in IDS.into_iter().zip(want).zip(all).zip(seen) {
            let name = register.name;
            check_eq!("the guest reads {name} as userspace left it", seen, want);
            check_eq!(
                "{name} accepts its own value after KVM_RUN",
                t.vcpu.set_sysreg(&register, want),
                Ok(())
            );
            if before != want {
                let set = t.vcpu.set_sysreg(&register, before);
                check_eq!(
                    "{name} refuses its first value after KVM_RUN with EBUSY",
                    set,
                    Err(Errno::EBUSY)
                );
            }
        }
        t.vcpu.run_until_done()
    }

    /// What every vCPU has, by family (api.rst 4.68).
    #[kvm_test(idles)]
    fn register_list_is_complete(t: &mut OneVcpu) -> TestResult {
        /// 32-bit words into `struct kvm_regs`: the general registers end, FPSIMD state begins.
        const FP: u64 = 0x54;
        const CORE: u64 = bindings::KVM_REG_ARM64 | bindings::KVM_REG_ARM_CORE as u64;
        const U32: u64 = CORE | bindings::KVM_REG_SIZE_U32;
        const U128: u64 = CORE | bindings::KVM_REG_SIZE_U128;
        let list: HashSet<u64> = register_list(&t.vcpu)?.into_iter().collect();
        let all = |mut ids: &mut dyn Iterator<Item = u64>| {
            Iterator::all(&mut ids, |id| list.contains(&id))
        };
        check!("X0 to X30 are listed", all(&mut (0..31).map(core_reg::x)));
        let core =
            [core_reg::SP_EL0, core_reg::PC, core_reg::PSTATE, core_reg::SP_EL1, core_reg::ELR_EL1];
        check!("SP, PC, PSTATE and those of EL1 are listed", all(&mut core.into_iter()));
        check!("all five SPSRs are listed", all(&mut (0..5).map(|n| core_reg::SPSR_EL1 + 2 * n)));
        check!("V0 to V31 are listed", all(&mut (0..32).map(|n| U128 | (FP + 4 * n))));
        check!("FPSR and FPCR are listed", all(&mut (0..2).map(|n| U32 | (FP + 128 + n))));
        check!(
            "the PSCI version is listed",
            all(&mut std::iter::once(crate::aarch64::firmware::smccc::fw(0)))
        );
        let timer = [CNTV_CVAL_EL0, CNTVCT_EL0, CNTV_CTL_EL0];
        check!(
            "the timer's three registers are listed",
            all(&mut timer.iter().map(SysReg::one_reg))
        );
        let ids = (1..8).flat_map(|crm| (0..8).map(move |op2| MIDR_EL1.one_reg() | crm << 3 | op2));
        check!("all feature id registers are listed", all(&mut ids.into_iter()));
        let control = [
            MPIDR_EL1,
            SCTLR_EL1,
            ACTLR_EL1,
            CPACR_EL1,
            TTBR0_EL1,
            TTBR1_EL1,
            TCR_EL1,
            AFSR0_EL1,
            AFSR1_EL1,
            ESR_EL1,
            FAR_EL1,
            PAR_EL1,
            MAIR_EL1,
            AMAIR_EL1,
            VBAR_EL1,
            CONTEXTIDR_EL1,
            TPIDR_EL1,
            CNTKCTL_EL1,
            CSSELR_EL1,
            CLIDR_EL1,
            TPIDR_EL0,
            TPIDRRO_EL0,
            MDSCR_EL1,
        ];
        for register in control {
            let name = register.name;
            check!("{name} is in KVM_GET_REG_LIST", list.contains(&register.one_reg()));
        }
        for register in [PMCR_EL0, ZCR_EL1, HCR_EL2] {
            let name = register.name;
            check!(
                "{name} is not listed where it was not asked for",
                !list.contains(&register.one_reg())
            );
        }
        t.vcpu.run_until_done()
    }
}
