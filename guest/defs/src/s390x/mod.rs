//! s390x: the z/Architecture Principles of Operation (PoP).

pub mod cr;
pub mod interruption;
pub mod low_core;
pub mod psw;
