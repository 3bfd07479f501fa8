//! Numbers of the ioctls that tests issue raw (include/uapi/linux/kvm.h), for [`super::raw_ioctl`].
#![expect(missing_docs, reason = "the kernel's names")]

use kvm_bindings as kvm;

// `_IOC_*` of asm-generic/ioctl.h; powerpc has its own.
const IS_POWERPC: bool = cfg!(target_arch = "powerpc64");
const NONE: u64 = if IS_POWERPC { 1 } else { 0 };
const WRITE: u64 = if IS_POWERPC { 4 } else { 1 };
const READ: u64 = 2;
const DIRECTION_SHIFT: u32 = if IS_POWERPC { 29 } else { 30 };

/// `_IOC`, for KVM's type.
const fn ioc(direction: u64, nr: u64, size: usize) -> u64 {
    direction << DIRECTION_SHIFT | (size as u64) << 16 | (kvm::KVMIO as u64) << 8 | nr
}

/// `_IO(KVMIO, nr)`: the argument is a number, if anything.
pub const fn io(nr: u64) -> u64 {
    ioc(NONE, nr, 0)
}

/// `_IOW(KVMIO, nr, T)`.
pub const fn iow<T>(nr: u64) -> u64 {
    ioc(WRITE, nr, size_of::<T>())
}

/// `_IOR(KVMIO, nr, T)`.
pub const fn ior<T>(nr: u64) -> u64 {
    ioc(READ, nr, size_of::<T>())
}

/// `_IOWR(KVMIO, nr, T)`.
pub const fn iowr<T>(nr: u64) -> u64 {
    ioc(READ | WRITE, nr, size_of::<T>())
}

// /dev/kvm.
pub const KVM_GET_API_VERSION: u64 = io(0x00);
pub const KVM_CREATE_VM: u64 = io(0x01);
pub const KVM_CHECK_EXTENSION: u64 = io(0x03);
pub const KVM_GET_VCPU_MMAP_SIZE: u64 = io(0x04);

// VM.
pub const KVM_CREATE_VCPU: u64 = io(0x41);
pub const KVM_GET_DIRTY_LOG: u64 = iow::<kvm::kvm_dirty_log>(0x42);
pub const KVM_SET_USER_MEMORY_REGION: u64 = iow::<kvm::kvm_userspace_memory_region>(0x46);
pub const KVM_SET_USER_MEMORY_REGION2: u64 = iow::<kvm::kvm_userspace_memory_region2>(0x49);
pub const KVM_SET_GSI_ROUTING: u64 = iow::<kvm::kvm_irq_routing>(0x6a);
pub const KVM_ENABLE_CAP: u64 = iow::<kvm::kvm_enable_cap>(0xa3);
pub const KVM_CLEAR_DIRTY_LOG: u64 = iowr::<kvm::kvm_clear_dirty_log>(0xc0);
pub const KVM_RESET_DIRTY_RINGS: u64 = io(0xc7);
pub const KVM_GET_STATS_FD: u64 = io(0xce);
pub const KVM_CREATE_GUEST_MEMFD: u64 = iowr::<kvm::kvm_create_guest_memfd>(0xd4);

// Devices, and what has attributes like them.
pub const KVM_CREATE_DEVICE: u64 = iowr::<kvm::kvm_create_device>(0xe0);
pub const KVM_SET_DEVICE_ATTR: u64 = iow::<kvm::kvm_device_attr>(0xe1);
pub const KVM_GET_DEVICE_ATTR: u64 = iow::<kvm::kvm_device_attr>(0xe2);
pub const KVM_HAS_DEVICE_ATTR: u64 = iow::<kvm::kvm_device_attr>(0xe3);

// vCPU.
pub const KVM_RUN: u64 = io(0x80);
pub const KVM_INTERRUPT: u64 = iow::<u32>(0x86);
pub const KVM_SET_SIGNAL_MASK: u64 = iow::<kvm::kvm_signal_mask>(0x8b);
/// Of a `kvm_one_reg`: the id and an address.
pub const KVM_GET_ONE_REG: u64 = iow::<[u64; 2]>(0xab);
pub const KVM_GET_REG_LIST: u64 = iowr::<kvm::kvm_reg_list>(0xb0);

/// Of x86 only.
#[cfg(target_arch = "x86_64")]
pub mod x86 {
    #![expect(missing_docs, reason = "the kernel's names")]
    use super::{ior, iow, iowr, kvm};

    // /dev/kvm.
    pub const KVM_GET_MSR_INDEX_LIST: u64 = iowr::<kvm::kvm_msr_list>(0x02);
    pub const KVM_GET_SUPPORTED_CPUID: u64 = iowr::<kvm::kvm_cpuid2>(0x05);
    pub const KVM_GET_EMULATED_CPUID: u64 = iowr::<kvm::kvm_cpuid2>(0x09);
    pub const KVM_GET_MSR_FEATURE_INDEX_LIST: u64 = iowr::<kvm::kvm_msr_list>(0x0a);
    pub const KVM_X86_GET_MCE_CAP_SUPPORTED: u64 = ior::<u64>(0x9d);
    /// Of /dev/kvm and of a vCPU.
    pub const KVM_GET_SUPPORTED_HV_CPUID: u64 = iowr::<kvm::kvm_cpuid2>(0xc1);

    // VM.
    pub const KVM_IRQ_LINE: u64 = iow::<kvm::kvm_irq_level>(0x61);
    pub const KVM_GET_IRQCHIP: u64 = iowr::<kvm::kvm_irqchip>(0x62);
    pub const KVM_SET_IRQCHIP: u64 = ior::<kvm::kvm_irqchip>(0x63);
    pub const KVM_IRQ_LINE_STATUS: u64 = iowr::<kvm::kvm_irq_level>(0x67);
    pub const KVM_SET_PMU_EVENT_FILTER: u64 = iow::<kvm::kvm_pmu_event_filter>(0xb2);
    pub const KVM_X86_SET_MSR_FILTER: u64 = iow::<kvm::kvm_msr_filter>(0xc6);

    // vCPU.
    /// Of /dev/kvm too.
    pub const KVM_GET_MSRS: u64 = iowr::<kvm::kvm_msrs>(0x88);
    pub const KVM_SET_MSRS: u64 = iow::<kvm::kvm_msrs>(0x89);
    pub const KVM_SET_CPUID: u64 = iow::<kvm::kvm_cpuid>(0x8a);
    pub const KVM_SET_CPUID2: u64 = iow::<kvm::kvm_cpuid2>(0x90);
    pub const KVM_GET_CPUID2: u64 = iowr::<kvm::kvm_cpuid2>(0x91);
    pub const KVM_X86_SETUP_MCE: u64 = iow::<u64>(0x9c);
    pub const KVM_X86_SET_MCE: u64 = iow::<kvm::kvm_x86_mce>(0x9e);
    pub const KVM_GET_XSAVE: u64 = ior::<kvm::kvm_xsave>(0xa4);
    pub const KVM_SET_XSAVE: u64 = iow::<kvm::kvm_xsave>(0xa5);
    pub const KVM_GET_XCRS: u64 = ior::<kvm::kvm_xcrs>(0xa6);
    pub const KVM_SET_XCRS: u64 = iow::<kvm::kvm_xcrs>(0xa7);
    pub const KVM_GET_NESTED_STATE: u64 = iowr::<kvm::kvm_nested_state>(0xbe);
    pub const KVM_SET_NESTED_STATE: u64 = iow::<kvm::kvm_nested_state>(0xbf);
    pub const KVM_GET_XSAVE2: u64 = ior::<kvm::kvm_xsave>(0xcf);

    const _: () = assert!(KVM_GET_CPUID2 == 0xc008_ae91 && KVM_GET_XSAVE2 == 0x9000_aecf);
}

/// Of s390x only.
#[cfg(target_arch = "s390x")]
pub mod s390x {
    #![expect(missing_docs, reason = "the kernel's names")]
    use super::{io, ior, iow, kvm};

    pub const KVM_GET_REGS: u64 = ior::<kvm::kvm_regs>(0x81);
    pub const KVM_SET_REGS: u64 = iow::<kvm::kvm_regs>(0x82);
    pub const KVM_GET_SREGS: u64 = ior::<kvm::kvm_sregs>(0x83);
    pub const KVM_SET_SREGS: u64 = iow::<kvm::kvm_sregs>(0x84);
    pub const KVM_GET_FPU: u64 = ior::<kvm::kvm_fpu>(0x8c);
    pub const KVM_SET_FPU: u64 = iow::<kvm::kvm_fpu>(0x8d);
    pub const KVM_S390_INITIAL_RESET: u64 = io(0x97);
    pub const KVM_S390_IRQ: u64 = iow::<kvm::kvm_s390_irq>(0xb4);
    pub const KVM_S390_SET_IRQ_STATE: u64 = iow::<kvm::kvm_s390_irq_state>(0xb5);
    pub const KVM_S390_GET_IRQ_STATE: u64 = iow::<kvm::kvm_s390_irq_state>(0xb6);
    pub const KVM_S390_NORMAL_RESET: u64 = io(0xc3);
    pub const KVM_S390_CLEAR_RESET: u64 = io(0xc4);
}

#[cfg(not(target_arch = "powerpc64"))]
const _: () = assert!(KVM_RUN == 0xae80 && KVM_SET_USER_MEMORY_REGION == 0x4020_ae46);
