//! What userspace has set up in a VM and KVM does not give back: from it the VM is made anew.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::{KVM_IRQFD_FLAG_DEASSIGN, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use crate::{Capability, IoEventfd, Irqchip, Irqfd, Route};

/// `KVM_IOEVENTFD_FLAG_DEASSIGN`.
const IOEVENTFD_DEASSIGN: u32 = 1 << 2;

/// What a VM, its vCPUs and its devices share.
#[derive(Debug)]
pub(crate) struct Core {
    pub fd: VmFd,
    inventory: Mutex<Inventory>,
}

impl Core {
    pub fn new(fd: VmFd, irqchip: Irqchip) -> Self {
        Self { fd, inventory: Mutex::new(Inventory { irqchip, ..Inventory::default() }) }
    }

    pub fn inventory(&self) -> MutexGuard<'_, Inventory> {
        self.inventory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRawFd for Core {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// See the head of this file. Only what went through the methods of [`crate::Vm`] and [`crate::Vcpu`] is in
/// it, not what a test did by the bare descriptor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    pub irqchip: Irqchip,
    /// Capabilities of the VM, in the order of enabling.
    pub caps: Vec<Capability>,
    /// Memslots, with the address space in the upper half of the number.
    pub slots: BTreeMap<u32, kvm_userspace_memory_region>,
    /// The last KVM_SET_GSI_ROUTING.
    pub routes: Option<Vec<(u32, Route)>>,
    pub irqfds: Vec<Irqfd>,
    pub ioeventfds: Vec<IoEventfd>,
    pub vcpus: Vec<VcpuEntry>,
    pub devices: Vec<DeviceEntry>,
    /// What only this architecture has.
    #[cfg(target_arch = "x86_64")]
    pub arch: super::Setup,
}

/// A vCPU that lives.
#[derive(Clone, Debug)]
pub(crate) struct VcpuEntry {
    pub index: u32,
    pub fd: RawFd,
    /// Where `kvm_run` is mapped.
    pub run: usize,
    /// Whether it has been in KVM_RUN.
    pub has_run: bool,
    /// Whether it stopped at an exit that the test has yet to handle; kept while VMs are moved.
    pub is_at_exit: bool,
    /// The last `KVM_SET_GUEST_DEBUG`.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub guest_debug: Option<kvm_bindings::kvm_guest_debug>,
    /// Capabilities of the vCPU, in the order of enabling.
    pub caps: Vec<Capability>,
    /// What `KVM_ARM_VCPU_INIT` was asked for.
    #[cfg(target_arch = "aarch64")]
    pub features: crate::arch::VcpuFeatures,
}

impl VcpuEntry {
    pub fn new(index: u32, fd: RawFd, run: usize) -> Self {
        Self {
            index,
            fd,
            run,
            has_run: false,
            is_at_exit: false,
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            guest_debug: None,
            caps: Vec::new(),
            #[cfg(target_arch = "aarch64")]
            features: Default::default(),
        }
    }
}

/// A device that lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceEntry {
    pub fd: RawFd,
    /// `KVM_DEV_TYPE_*`.
    #[cfg_attr(
        not(target_arch = "aarch64"),
        expect(dead_code, reason = "only there devices are made")
    )]
    pub kind: u32,
}

impl Inventory {
    /// After a `KVM_SET_USER_MEMORY_REGION` that succeeded.
    pub fn set_slot(&mut self, region: kvm_userspace_memory_region) {
        if region.memory_size == 0 {
            self.slots.remove(&region.slot);
        } else {
            self.slots.insert(region.slot, region);
        }
    }

    /// After a `KVM_IRQFD` that succeeded.
    pub fn set_irqfd(&mut self, irqfd: Irqfd) {
        if irqfd.flags & KVM_IRQFD_FLAG_DEASSIGN == 0 {
            self.irqfds.push(irqfd);
        } else {
            self.irqfds.retain(|old| (old.fd, old.gsi) != (irqfd.fd, irqfd.gsi));
        }
    }

    /// After a `KVM_IOEVENTFD` that succeeded.
    pub fn set_ioeventfd(&mut self, ioeventfd: IoEventfd) {
        if ioeventfd.flags & IOEVENTFD_DEASSIGN == 0 {
            self.ioeventfds.push(ioeventfd);
        } else {
            let key = |e: &IoEventfd| (e.fd, e.addr, e.len, e.datamatch);
            self.ioeventfds.retain(|old| key(old) != key(&ioeventfd));
        }
    }

    /// The vCPU behind a descriptor.
    pub fn vcpu(&mut self, fd: RawFd) -> Option<&mut VcpuEntry> {
        self.vcpus.iter_mut().find(|vcpu| vcpu.fd == fd)
    }
}
