//! System management mode (SDM vol. 3, "System Management Mode"; APM vol. 2, "System-Management Mode").

/// SMBASE after a reset.
pub const SMBASE: u64 = 0x3_0000;

/// Where the handler starts, from SMBASE.
pub const HANDLER: u64 = 0x8000;

/// Offsets from SMBASE in AMD64's save area (APM vol. 2, "SMRAM State-Save Area").
pub mod saved {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const EFER: u64 = 0xfed0;
    pub const REVISION: u64 = 0xfefc;
    pub const SMBASE: u64 = 0xff00;
    pub const CR4: u64 = 0xff48;
    pub const CR3: u64 = 0xff50;
    pub const CR0: u64 = 0xff58;
    pub const DR7: u64 = 0xff60;
    pub const RFLAGS: u64 = 0xff70;
    pub const RIP: u64 = 0xff78;
    /// Sixteen general registers, the last first.
    pub const GPRS: u64 = 0xff80;
}

/// Revision identifier: SMBASE can be moved.
pub const REVISION_SMBASE_RELOCATION: u32 = 1 << 17;
