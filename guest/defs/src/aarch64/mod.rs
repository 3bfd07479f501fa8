//! aarch64: the Arm Architecture Reference Manual (ARM ARM, DDI 0487), the specifications of the generic interrupt
//! controller (IHI 0048, IHI 0069), and Arm's firmware interfaces.

pub mod debug;
pub mod esr;
pub mod gic;
pub mod id;
pub mod its;
pub mod mmio;
pub mod paging;
pub mod pmu;
pub mod psci;
pub mod regs;
pub mod smccc;
pub mod spe;
pub mod sysreg;
pub mod timer;
