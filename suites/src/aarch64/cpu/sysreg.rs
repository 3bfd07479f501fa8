//! System registers: what userspace sees of them (api.rst 4.68 to 4.71), and what a guest may touch.
use crate::prelude::*;

#[guest]
fn idles(_: &mut Guest) {}

/// Registers that only keep what is written, with the bits that all implementations keep.
const PLAIN: [(SysReg, u64); 5] = [
    (TPIDR_EL0, !0),
    (TPIDRRO_EL0, !0),
    (TPIDR_EL1, !0),
    (CONTEXTIDR_EL1, 0xffff_ffff),
    (FAR_EL1, !0),
];
const FROM_HOST: u64 = 0x0123_4567_89ab_cdef;

#[guest]
fn exchanges_registers(g: &mut Guest) {
    g.sync(1, &[]);
    for (register, bits) in PLAIN {
        let name = register.name;
        check_eq!("the guest reads {name} as userspace set it", register.read(), FROM_HOST & bits);
        register.write(!FROM_HOST & bits);
    }
    g.sync(2, &[]);
}

/// Identification registers that every KVM emulates.
const IDS: [SysReg; 9] = [
    ID_AA64PFR0_EL1,
    ID_AA64PFR1_EL1,
    ID_AA64DFR0_EL1,
    ID_AA64ISAR0_EL1,
    ID_AA64ISAR1_EL1,
    ID_AA64MMFR0_EL1,
    ID_AA64MMFR1_EL1,
    ID_AA64MMFR2_EL1,
    MPIDR_EL1,
];

#[guest]
fn reads_ids(g: &mut Guest) {
    let mut values = [0; IDS.len()];
    for (value, register) in values.iter_mut().zip(IDS) {
        *value = register.read();
        let name = register.name;
        check!(
            "{name} is read-only for the guest",
            register.write_safe(0).is_err_and(|t| t.vector == vector::UNKNOWN)
        );
    }
    check!("bit 31 of MPIDR_EL1 is RES1", MPIDR_EL1.read() & regs::mpidr::RES1 != 0);
    g.sync(1, &values);
    // On a CPU with SVE the guest's own trap would come first.
    CPACR_EL1.write(CPACR_EL1.read() | regs::cpacr::ZEN.mask());
    for register in [HCR_EL2, VBAR_EL2, SCR_EL3, ZCR_EL1, PMCR_EL0, PMCCNTR_EL0] {
        let name = register.name;
        let trap = register.read_safe().map_err(|t| t.vector);
        check_eq!("{name} is undefined where the guest lacks it", trap, Err(vector::UNKNOWN));
    }
    let pmu = dfr0::PMUVER.get(ID_AA64DFR0_EL1.read());
    check!(
        "ID_AA64DFR0_EL1 reports no PMU where none was asked for",
        pmu == 0 || pmu == 15,
        "{pmu}"
    );
    check_eq!(
        "ID_AA64PFR0_EL1 reports no SVE where none was asked for",
        pfr0::SVE.get(ID_AA64PFR0_EL1.read()),
        0
    );
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;
    use std::collections::HashSet;

    /// `KVM_GET_REG_LIST`.
    const KVM_GET_REG_LIST: u64 = 0xc008_aeb0;

    /// The ids in `KVM_GET_REG_LIST`.
    pub fn register_list(vcpu: &Vcpu) -> TestResult<Vec<u64>> {
        let mut count = 0_u64.to_ne_bytes();
        let refused = vcpu.raw(KVM_GET_REG_LIST, &mut count);
        check_eq!("KVM_GET_REG_LIST with too little room is E2BIG", refused, Err(Errno::E2BIG));
        let n = u64::from_ne_bytes(count) as usize;
        check!("KVM_GET_REG_LIST with E2BIG returns the number", n > 0);
        let mut bytes = vec![0; 8 * (n + 1)];
        bytes[..8].copy_from_slice(&(n as u64).to_ne_bytes());
        vcpu.raw(KVM_GET_REG_LIST, &mut bytes).ioctl("KVM_GET_REG_LIST")?;
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
        Ok(bytes.chunks_exact(8).skip(1).map(word).collect())
    }

    /// Every register in `KVM_GET_REG_LIST` is there once, can be read, and takes back its own value.
    #[kvm_test(idles)]
    fn listed_registers_can_be_saved_and_restored(t: &mut OneVcpu) -> TestResult {
        /// Bits of an id that tell the size, as a power of two (KVM_REG_SIZE).
        const SIZE: u64 = bindings::KVM_REG_SIZE_MASK;
        let ids = register_list(&t.vcpu)?;
        let unique: HashSet<u64> = ids.iter().copied().collect();
        check_eq!("no register is listed twice", unique.len(), ids.len());
        for id in ids {
            let mut value = vec![0; 1 << ((id & SIZE) >> SIZE.trailing_zeros())];
            let read = t.vcpu.fd().get_one_reg(id, &mut value);
            check!("a listed register can be read", read.is_ok(), "{id:#x}: {read:?}");
            let written = t.vcpu.fd().set_one_reg(id, &value);
            check!(
                "a listed register accepts its own value",
                written.is_ok(),
                "{id:#x}: {written:?}"
            );
        }
        for register in [SCTLR_EL1, TTBR0_EL1, MPIDR_EL1, TPIDR_EL0, CNTKCTL_EL1] {
            let name = register.name;
            check!("{name} is in KVM_GET_REG_LIST", unique.contains(&register.one_reg()));
        }
        t.vcpu.run_until_done()
    }

    /// A register that does not exist is refused.
    #[kvm_test(idles)]
    fn unknown_registers_are_refused(t: &mut OneVcpu) -> TestResult {
        let s3_7_c15_c15_7 = MIDR_EL1.one_reg() | 0x3fff;
        for (id, what) in
            [(s3_7_c15_c15_7, "a system register"), (core_reg::x(0) | 0xfff0, "a core register")]
        {
            let got = t.vcpu.get_reg(id);
            check!(
                "KVM_GET_ONE_REG of {what} that does not exist is ENOENT or EINVAL",
                matches!(got, Err(Errno::ENOENT | Errno::EINVAL)),
                "{got:?}"
            );
            let set = t.vcpu.set_reg(id, 0);
            check!(
                "KVM_SET_ONE_REG of {what} that does not exist is ENOENT or EINVAL",
                matches!(set, Err(Errno::ENOENT | Errno::EINVAL)),
                "{set:?}"
            );
        }
        t.vcpu.run_until_done()
    }

    /// A register set by `KVM_SET_ONE_REG` is what the guest reads, and the other way round.
    #[kvm_test(exchanges_registers)]
    fn guest_and_userspace_see_the_same_registers(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(1)?;
        for (register, bits) in PLAIN {
            t.vcpu.set_sysreg(&register, FROM_HOST & bits).ioctl("KVM_SET_ONE_REG")?;
        }
        t.vcpu.run_until_sync(2)?;
        for (register, bits) in PLAIN {
            let name = register.name;
            check_eq!(
                "userspace reads {name} as the guest left it",
                t.vcpu.get_sysreg(&register),
                Ok(!FROM_HOST & bits)
            );
        }
        t.vcpu.run_until_done()
    }

    /// Guest and userspace read the same identification registers; what they do not offer is undefined.
    #[kvm_test(reads_ids)]
    fn identification_registers(t: &mut OneVcpu) -> TestResult {
        let seen = t.vcpu.run_until_sync(1)?;
        for (register, seen) in IDS.into_iter().zip(seen) {
            let name = register.name;
            check_eq!(
                "guest and userspace read the same {name}",
                t.vcpu.get_sysreg(&register),
                Ok(seen)
            );
        }
        t.vcpu.run_until_done()
    }
}
