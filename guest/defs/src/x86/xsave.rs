//! The XSAVE feature set (SDM vol. 1, "Managing State Using the XSAVE Feature Set").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

bitflags! {
    /// State components, as in XCR0 and XSTATE_BV.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Xcr0: u64 {
        const X87 = 1 << 0;
        const SSE = 1 << 1;
        const AVX = 1 << 2;
        const BNDREGS = 1 << 3;
        const BNDCSR = 1 << 4;
        const OPMASK = 1 << 5;
        const ZMM_HI256 = 1 << 6;
        const HI16_ZMM = 1 << 7;
        const PKRU = 1 << 9;
        const TILECFG = 1 << 17;
        const TILEDATA = 1 << 18;
    }
}

/// Offsets in the legacy region and the header of an XSAVE area.
pub mod area {
    pub const FCW: usize = 0;
    pub const MXCSR: usize = 24;
    pub const XMM0: usize = 160;
    pub const XSTATE_BV: usize = 512;
    /// Bytes of legacy region and header: extended state follows.
    pub const EXTENDED: u32 = 576;
}
