//! Machine checks (SDM vol. 3, "Machine-Check Architecture").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

use super::msr::{IA32_MC0_ADDR, IA32_MC0_CTL, IA32_MC0_CTL2, IA32_MC0_MISC, IA32_MC0_STATUS};

/// MSRs of a bank beside CTL2: CTL, STATUS, ADDR and MISC.
pub const BANK_MSRS: u32 = 4;

/// IA32_MCi_CTL.
pub const fn ctl(bank: u32) -> u32 {
    IA32_MC0_CTL + BANK_MSRS * bank
}

/// IA32_MCi_STATUS.
pub const fn status(bank: u32) -> u32 {
    IA32_MC0_STATUS + BANK_MSRS * bank
}

/// IA32_MCi_ADDR.
pub const fn addr(bank: u32) -> u32 {
    IA32_MC0_ADDR + BANK_MSRS * bank
}

/// IA32_MCi_MISC.
pub const fn misc(bank: u32) -> u32 {
    IA32_MC0_MISC + BANK_MSRS * bank
}

/// IA32_MCi_CTL2.
pub const fn ctl2(bank: u32) -> u32 {
    IA32_MC0_CTL2 + bank
}

bitflags! {
    /// IA32_MCG_CAP beside the count of banks in its low byte.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct McgCap: u64 {
        const COUNT = 0xff;
        const MCG_CMCI_P = 1 << 10;
        const MCG_EXT_CNT = 0xff << 16;
        const MCG_SER_P = 1 << 24;
    }

    /// IA32_MCG_STATUS.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct McgStatus: u64 {
        const RIPV = 1 << 0;
        const EIPV = 1 << 1;
        const MCIP = 1 << 2;
    }

    /// IA32_MCi_STATUS beside the error codes in its low half.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MciStatus: u64 {
        const AR = 1 << 55;
        const S = 1 << 56;
        const PCC = 1 << 57;
        const ADDRV = 1 << 58;
        const MISCV = 1 << 59;
        const EN = 1 << 60;
        const UC = 1 << 61;
        const OVER = 1 << 62;
        const VAL = 1 << 63;
    }

    /// IA32_MCi_CTL2.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MciCtl2: u64 {
        /// The threshold of corrected errors.
        const THRESHOLD = 0x7fff;
        const CMCI_EN = 1 << 30;
    }
}
