//! Userspace calls at and beyond the bounds of their arguments.

#[cfg(not(kvm_guest))]
pub mod uapi_bounds;
#[cfg(not(kvm_guest))]
pub mod uapi_bounds_caps;
pub mod uapi_bounds_filters;
#[cfg(not(kvm_guest))]
pub mod uapi_bounds_irq;
#[cfg(not(kvm_guest))]
pub mod uapi_bounds_lists;
#[cfg(not(kvm_guest))]
pub mod uapi_bounds_msrs;
#[cfg(not(kvm_guest))]
pub mod uapi_bounds_vcpu;
