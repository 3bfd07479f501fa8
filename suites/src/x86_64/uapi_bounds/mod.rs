//! Userspace calls at and beyond the bounds of their arguments.

pub mod uapi_bounds;
pub mod uapi_bounds_caps;
pub mod uapi_bounds_filters;
pub mod uapi_bounds_irq;
pub mod uapi_bounds_lists;
pub mod uapi_bounds_msrs;
pub mod uapi_bounds_vcpu;
