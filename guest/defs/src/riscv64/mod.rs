//! riscv64: the RISC-V Privileged Architecture manual, and the Supervisor Binary Interface (SBI).

pub mod cause;
pub mod csr;
pub mod paging;
pub mod sbi;
