//! ppc64le: the Power ISA, and the hypercalls of the Power Architecture Platform Reference (PAPR).

pub mod dawr;
pub mod hcall;
pub mod interrupt;
pub mod msr;
