//! The generic timer (ARM ARM D12).

pub use defs::aarch64::timer::*;

use super::cpu::relax;
use super::sysreg::{
    CNTFRQ_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTP_TVAL_EL0, CNTPCT_EL0, CNTV_CTL_EL0,
    CNTV_CVAL_EL0, CNTV_TVAL_EL0, CNTVCT_EL0, SysReg,
};

/// Waits at most five seconds of the counter; says whether `done` came to hold. For what must come, however slow the
/// host: what must not come is shown by an event behind it instead.
pub fn comes(mut done: impl FnMut() -> bool) -> bool {
    let deadline = CNTVCT_EL0.read() + 5 * CNTFRQ_EL0.read();
    while CNTVCT_EL0.read() < deadline {
        if done() {
            return true;
        }
        relax();
    }
    done()
}

/// One of the two timers of EL1.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    /// Its counter.
    pub count: SysReg,
    /// Control.
    pub ctl: SysReg,
    /// Compare value.
    pub cval: SysReg,
    /// Signed 32-bit view of the distance to `cval`.
    pub tval: SysReg,
    /// The interrupt that KVM gives it unless told otherwise.
    pub intid: u32,
}

/// The virtual timer.
pub const VIRTUAL: Timer = Timer {
    count: CNTVCT_EL0,
    ctl: CNTV_CTL_EL0,
    cval: CNTV_CVAL_EL0,
    tval: CNTV_TVAL_EL0,
    intid: VIRTUAL_INTID,
};

/// The physical timer.
pub const PHYSICAL: Timer = Timer {
    count: CNTPCT_EL0,
    ctl: CNTP_CTL_EL0,
    cval: CNTP_CVAL_EL0,
    tval: CNTP_TVAL_EL0,
    intid: PHYSICAL_INTID,
};
