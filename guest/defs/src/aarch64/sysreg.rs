//! System registers and their encodings (ARM ARM, "AArch64 System Register Descriptions"; of the interrupt controller, IHI
//! 0069).
#![expect(missing_docs, reason = "the manual's names")]

/// A system register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysReg {
    /// The manual's name.
    pub name: &'static str,
    /// op0, op1, CRn, CRm, op2.
    pub encoding: [u8; 5],
}

impl SysReg {
    /// The encoding in 16 bits, as KVM's interfaces have it.
    pub const fn instruction(&self) -> u64 {
        let [op0, op1, crn, crm, op2] = self.encoding;
        (op0 as u64) << 14 | (op1 as u64) << 11 | (crn as u64) << 7 | (crm as u64) << 3 | op2 as u64
    }

    /// The register's id for `KVM_GET_ONE_REG` (api.rst 4.68, "ARM64 system registers").
    pub const fn one_reg(&self) -> u64 {
        const KVM_REG_ARM64_SYSREG_U64: u64 = 0x6030_0000_0013_0000;
        KVM_REG_ARM64_SYSREG_U64 | self.instruction()
    }
}

macro_rules! define {
    ($($name:ident = $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {$(
        pub const $name: SysReg =
            SysReg { name: stringify!($name), encoding: [$op0, $op1, $crn, $crm, $op2] };
    )*};
}

/// Gives every register to the macro `then`: name, op0, op1, CRn, CRm and op2, as literals, because an assembler
/// takes encodings in an instruction's text only.
#[macro_export]
macro_rules! for_each_sysreg {
    ($then:ident) => {
        $then! {
            MIDR_EL1 = 3, 0, 0, 0, 0;
            MPIDR_EL1 = 3, 0, 0, 0, 5;
            REVIDR_EL1 = 3, 0, 0, 0, 6;
            ID_PFR0_EL1 = 3, 0, 0, 1, 0;
            ID_DFR0_EL1 = 3, 0, 0, 1, 2;
            ID_AA64PFR0_EL1 = 3, 0, 0, 4, 0;
            ID_AA64PFR1_EL1 = 3, 0, 0, 4, 1;
            ID_AA64ZFR0_EL1 = 3, 0, 0, 4, 4;
            ID_AA64DFR0_EL1 = 3, 0, 0, 5, 0;
            ID_AA64DFR1_EL1 = 3, 0, 0, 5, 1;
            ID_AA64ISAR0_EL1 = 3, 0, 0, 6, 0;
            ID_AA64ISAR1_EL1 = 3, 0, 0, 6, 1;
            ID_AA64MMFR0_EL1 = 3, 0, 0, 7, 0;
            ID_AA64MMFR1_EL1 = 3, 0, 0, 7, 1;
            ID_AA64MMFR2_EL1 = 3, 0, 0, 7, 2;
            SCTLR_EL1 = 3, 0, 1, 0, 0;
            ACTLR_EL1 = 3, 0, 1, 0, 1;
            CPACR_EL1 = 3, 0, 1, 0, 2;
            ZCR_EL1 = 3, 0, 1, 2, 0;
            TTBR0_EL1 = 3, 0, 2, 0, 0;
            TTBR1_EL1 = 3, 0, 2, 0, 1;
            TCR_EL1 = 3, 0, 2, 0, 2;
            SPSR_EL1 = 3, 0, 4, 0, 0;
            ELR_EL1 = 3, 0, 4, 0, 1;
            SP_EL0 = 3, 0, 4, 1, 0;
            CURRENTEL = 3, 0, 4, 2, 2;
            AFSR0_EL1 = 3, 0, 5, 1, 0;
            AFSR1_EL1 = 3, 0, 5, 1, 1;
            ESR_EL1 = 3, 0, 5, 2, 0;
            FAR_EL1 = 3, 0, 6, 0, 0;
            PAR_EL1 = 3, 0, 7, 4, 0;
            MAIR_EL1 = 3, 0, 10, 2, 0;
            AMAIR_EL1 = 3, 0, 10, 3, 0;
            VBAR_EL1 = 3, 0, 12, 0, 0;
            ISR_EL1 = 3, 0, 12, 1, 0;
            CONTEXTIDR_EL1 = 3, 0, 13, 0, 1;
            TPIDR_EL1 = 3, 0, 13, 0, 4;
            CNTKCTL_EL1 = 3, 0, 14, 1, 0;
            CLIDR_EL1 = 3, 1, 0, 0, 1;
            CSSELR_EL1 = 3, 2, 0, 0, 0;
            CTR_EL0 = 3, 3, 0, 0, 1;
            DCZID_EL0 = 3, 3, 0, 0, 7;
            NZCV = 3, 3, 4, 2, 0;
            DAIF = 3, 3, 4, 2, 1;
            FPCR = 3, 3, 4, 4, 0;
            FPSR = 3, 3, 4, 4, 1;
            TPIDR_EL0 = 3, 3, 13, 0, 2;
            TPIDRRO_EL0 = 3, 3, 13, 0, 3;
            VPIDR_EL2 = 3, 4, 0, 0, 0;
            VMPIDR_EL2 = 3, 4, 0, 0, 5;
            SCTLR_EL2 = 3, 4, 1, 0, 0;
            HCR_EL2 = 3, 4, 1, 1, 0;
            CPTR_EL2 = 3, 4, 1, 1, 2;
            TTBR0_EL2 = 3, 4, 2, 0, 0;
            TCR_EL2 = 3, 4, 2, 0, 2;
            VTTBR_EL2 = 3, 4, 2, 1, 0;
            VTCR_EL2 = 3, 4, 2, 1, 2;
            HPFAR_EL2 = 3, 4, 6, 0, 4;
            MAIR_EL2 = 3, 4, 10, 2, 0;
            SP_EL2 = 3, 6, 4, 1, 0;
            SCTLR_EL12 = 3, 5, 1, 0, 0;
            SP_EL1 = 3, 4, 4, 1, 0;
            CPACR_EL12 = 3, 5, 1, 0, 2;
            TTBR0_EL12 = 3, 5, 2, 0, 0;
            TCR_EL12 = 3, 5, 2, 0, 2;
            MAIR_EL12 = 3, 5, 10, 2, 0;
            VBAR_EL12 = 3, 5, 12, 0, 0;
            VBAR_EL2 = 3, 4, 12, 0, 0;
            SCR_EL3 = 3, 6, 1, 1, 0;

            MDSCR_EL1 = 2, 0, 0, 2, 2;
            DBGBVR0_EL1 = 2, 0, 0, 0, 4;
            DBGBCR0_EL1 = 2, 0, 0, 0, 5;
            DBGWVR0_EL1 = 2, 0, 0, 0, 6;
            DBGWCR0_EL1 = 2, 0, 0, 0, 7;
            DBGBVR1_EL1 = 2, 0, 0, 1, 4;
            DBGBCR1_EL1 = 2, 0, 0, 1, 5;
            DBGWVR1_EL1 = 2, 0, 0, 1, 6;
            DBGWCR1_EL1 = 2, 0, 0, 1, 7;
            OSDLR_EL1 = 2, 0, 1, 3, 4;
            OSLAR_EL1 = 2, 0, 1, 0, 4;
            OSLSR_EL1 = 2, 0, 1, 1, 4;

            CNTFRQ_EL0 = 3, 3, 14, 0, 0;
            CNTPCT_EL0 = 3, 3, 14, 0, 1;
            CNTVCT_EL0 = 3, 3, 14, 0, 2;
            CNTP_TVAL_EL0 = 3, 3, 14, 2, 0;
            CNTP_CTL_EL0 = 3, 3, 14, 2, 1;
            CNTP_CVAL_EL0 = 3, 3, 14, 2, 2;
            CNTV_TVAL_EL0 = 3, 3, 14, 3, 0;
            CNTV_CTL_EL0 = 3, 3, 14, 3, 1;
            CNTV_CVAL_EL0 = 3, 3, 14, 3, 2;

            ICC_PMR_EL1 = 3, 0, 4, 6, 0;
            ICC_IAR0_EL1 = 3, 0, 12, 8, 0;
            ICC_EOIR0_EL1 = 3, 0, 12, 8, 1;
            ICC_HPPIR0_EL1 = 3, 0, 12, 8, 2;
            ICC_BPR0_EL1 = 3, 0, 12, 8, 3;
            ICC_AP0R0_EL1 = 3, 0, 12, 8, 4;
            ICC_AP1R0_EL1 = 3, 0, 12, 9, 0;
            ICC_DIR_EL1 = 3, 0, 12, 11, 1;
            ICC_RPR_EL1 = 3, 0, 12, 11, 3;
            ICC_SGI1R_EL1 = 3, 0, 12, 11, 5;
            ICC_SGI0R_EL1 = 3, 0, 12, 11, 7;
            ICC_IAR1_EL1 = 3, 0, 12, 12, 0;
            ICC_EOIR1_EL1 = 3, 0, 12, 12, 1;
            ICC_HPPIR1_EL1 = 3, 0, 12, 12, 2;
            ICC_BPR1_EL1 = 3, 0, 12, 12, 3;
            ICC_CTLR_EL1 = 3, 0, 12, 12, 4;
            ICC_SRE_EL1 = 3, 0, 12, 12, 5;
            ICC_IGRPEN0_EL1 = 3, 0, 12, 12, 6;
            ICC_IGRPEN1_EL1 = 3, 0, 12, 12, 7;

            PMINTENSET_EL1 = 3, 0, 9, 14, 1;
            PMINTENCLR_EL1 = 3, 0, 9, 14, 2;
            PMMIR_EL1 = 3, 0, 9, 14, 6;
            PMCR_EL0 = 3, 3, 9, 12, 0;
            PMCNTENSET_EL0 = 3, 3, 9, 12, 1;
            PMCNTENCLR_EL0 = 3, 3, 9, 12, 2;
            PMOVSCLR_EL0 = 3, 3, 9, 12, 3;
            PMSWINC_EL0 = 3, 3, 9, 12, 4;
            PMSELR_EL0 = 3, 3, 9, 12, 5;
            PMCEID0_EL0 = 3, 3, 9, 12, 6;
            PMCEID1_EL0 = 3, 3, 9, 12, 7;
            PMCCNTR_EL0 = 3, 3, 9, 13, 0;
            PMXEVTYPER_EL0 = 3, 3, 9, 13, 1;
            PMXEVCNTR_EL0 = 3, 3, 9, 13, 2;
            PMUSERENR_EL0 = 3, 3, 9, 14, 0;
            PMOVSSET_EL0 = 3, 3, 9, 14, 3;
            PMEVCNTR0_EL0 = 3, 3, 14, 8, 0;
            PMEVCNTR1_EL0 = 3, 3, 14, 8, 1;
            PMEVCNTR2_EL0 = 3, 3, 14, 8, 2;
            PMEVCNTR3_EL0 = 3, 3, 14, 8, 3;
            PMEVTYPER0_EL0 = 3, 3, 14, 12, 0;
            PMEVTYPER1_EL0 = 3, 3, 14, 12, 1;
            PMEVTYPER2_EL0 = 3, 3, 14, 12, 2;
            PMEVTYPER3_EL0 = 3, 3, 14, 12, 3;
            PMEVCNTR30_EL0 = 3, 3, 14, 11, 6;
            PMEVTYPER30_EL0 = 3, 3, 14, 15, 6;
            PMCCFILTR_EL0 = 3, 3, 14, 15, 7;

            PMSCR_EL1 = 3, 0, 9, 9, 0;
            PMSNEVFR_EL1 = 3, 0, 9, 9, 1;
            PMSICR_EL1 = 3, 0, 9, 9, 2;
            PMSIRR_EL1 = 3, 0, 9, 9, 3;
            PMSFCR_EL1 = 3, 0, 9, 9, 4;
            PMSEVFR_EL1 = 3, 0, 9, 9, 5;
            PMSLATFR_EL1 = 3, 0, 9, 9, 6;
            PMSIDR_EL1 = 3, 0, 9, 9, 7;
            PMBLIMITR_EL1 = 3, 0, 9, 10, 0;
            PMBPTR_EL1 = 3, 0, 9, 10, 1;
            PMBSR_EL1 = 3, 0, 9, 10, 3;
            PMBIDR_EL1 = 3, 0, 9, 10, 7;
            PMSCR_EL2 = 3, 4, 9, 9, 0;
        }
    };
}
for_each_sysreg!(define);
