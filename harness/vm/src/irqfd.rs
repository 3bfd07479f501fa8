//! `KVM_IRQFD` (api.rst 4.75), `KVM_IOEVENTFD` (4.59) and `KVM_SET_GSI_ROUTING` (4.52) with every
//! argument in the caller's hand, so that wrong ones can be passed too.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE,
};
use nix::errno::Errno;

use super::request::{KVM_SET_GSI_ROUTING, iow};
use super::{Vm, raw_ioctl};
use crate::state::Core;

/// Not in every architecture's bindings.
const KVM_IRQ_ROUTING_HV_SINT: u32 = 4;

/// With `struct kvm_irqfd`.
const KVM_IRQFD: u64 = iow::<[u8; 32]>(0x76);
/// With `struct kvm_ioeventfd`.
const KVM_IOEVENTFD: u64 = iow::<[u8; 64]>(0x79);

/// `struct kvm_irqfd`.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the API's names")]
pub struct Irqfd {
    pub fd: i32,
    pub gsi: u32,
    pub flags: u32,
    pub resamplefd: i32,
}

impl Irqfd {
    fn bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0..4].copy_from_slice(&self.fd.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.gsi.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.resamplefd.to_ne_bytes());
        bytes
    }
}

/// `struct kvm_ioeventfd`.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the API's names")]
pub struct IoEventfd {
    pub datamatch: u64,
    pub addr: u64,
    pub len: u32,
    pub fd: i32,
    pub flags: u32,
}

impl IoEventfd {
    fn bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0..8].copy_from_slice(&self.datamatch.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.addr.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.len.to_ne_bytes());
        bytes[20..24].copy_from_slice(&self.fd.to_ne_bytes());
        bytes[24..28].copy_from_slice(&self.flags.to_ne_bytes());
        bytes
    }
}

/// Where a GSI leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a pin of an interrupt controller in the kernel.
    Pin {
        /// `KVM_IRQCHIP_*`.
        irqchip: u32,
        /// Pin.
        pin: u32,
    },
    /// To a message.
    Msi {
        /// Message address.
        address: u64,
        /// Message data.
        data: u32,
    },
    /// x86: to a source of a vCPU's Hyper-V synthetic interrupt controller.
    HvSint {
        /// VP index.
        vcpu: u32,
        /// SINT.
        sint: u32,
    },
}

impl Route {
    /// `struct kvm_irq_routing_entry`.
    fn bytes(self, gsi: u32) -> [u8; 48] {
        let (kind, words) = match self {
            Self::Pin { irqchip, pin } => (KVM_IRQ_ROUTING_IRQCHIP, [irqchip, pin, 0]),
            Self::Msi { address, data } => {
                (KVM_IRQ_ROUTING_MSI, [address as u32, (address >> 32) as u32, data])
            }
            Self::HvSint { vcpu, sint } => (KVM_IRQ_ROUTING_HV_SINT, [vcpu, sint, 0]),
        };
        let mut bytes = [0; 48];
        bytes[0..4].copy_from_slice(&gsi.to_ne_bytes());
        bytes[4..8].copy_from_slice(&kind.to_ne_bytes());
        for (i, word) in words.iter().enumerate() {
            bytes[16 + 4 * i..20 + 4 * i].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

impl Core {
    /// `KVM_IRQFD`, of which the inventory is not told.
    pub(crate) fn irqfd(&self, irqfd: Irqfd) -> Result<(), Errno> {
        raw_ioctl(self, KVM_IRQFD, &mut irqfd.bytes()).map(drop)
    }
}

impl Vm {
    /// `KVM_IRQFD`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn irqfd(&self, irqfd: Irqfd) -> Result<(), Errno> {
        self.core().irqfd(irqfd)?;
        self.core().inventory().set_irqfd(irqfd);
        Ok(())
    }

    /// Lets `fd` trigger `gsi`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn assign_irqfd(&self, fd: &impl AsRawFd, gsi: u32) -> Result<(), Errno> {
        self.irqfd(Irqfd { fd: fd.as_raw_fd(), gsi, ..Default::default() })
    }

    /// Lets `fd` assert `gsi` until the guest has ended the interrupt, told by `resamplefd`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn assign_level_irqfd(
        &self,
        fd: &impl AsRawFd,
        gsi: u32,
        resamplefd: &impl AsRawFd,
    ) -> Result<(), Errno> {
        self.irqfd(Irqfd {
            fd: fd.as_raw_fd(),
            gsi,
            flags: KVM_IRQFD_FLAG_RESAMPLE,
            resamplefd: resamplefd.as_raw_fd(),
        })
    }

    /// Takes `fd` off `gsi`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn deassign_irqfd(&self, fd: &impl AsRawFd, gsi: u32) -> Result<(), Errno> {
        let flags = KVM_IRQFD_FLAG_DEASSIGN;
        self.irqfd(Irqfd { fd: fd.as_raw_fd(), gsi, flags, ..Default::default() })
    }

    /// `KVM_IOEVENTFD`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn ioeventfd(&self, ioeventfd: IoEventfd) -> Result<(), Errno> {
        self.raw(KVM_IOEVENTFD, &mut ioeventfd.bytes())?;
        self.core().inventory().set_ioeventfd(ioeventfd);
        Ok(())
    }

    /// `KVM_SET_GSI_ROUTING`: replaces every route by `routes` of (GSI, target).
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_gsi_routing(&self, routes: &[(u32, Route)]) -> Result<(), Errno> {
        let mut bytes = (routes.len() as u32).to_ne_bytes().to_vec();
        bytes.extend([0; 4]);
        routes.iter().for_each(|(gsi, route)| bytes.extend(route.bytes(*gsi)));
        self.raw(KVM_SET_GSI_ROUTING, &mut bytes)?;
        self.core().inventory().routes = Some(routes.to_vec());
        Ok(())
    }
}
