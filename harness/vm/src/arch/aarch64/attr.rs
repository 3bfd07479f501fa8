//! Attributes of a vCPU (Documentation/virt/kvm/devices/vcpu.rst) and of a VM.

use defs::aarch64::sysreg::SysReg;
use kvm_bindings::{
    KVM_ARM_FEATURE_ID_RANGE_SIZE, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT,
    KVM_ARM_VCPU_PMU_V3_IRQ, reg_mask_range,
};
use nix::errno::Errno;

use crate::{Vcpu, Vm, attribute};

impl Vcpu {
    /// `KVM_HAS_DEVICE_ATTR`.
    pub fn has_attr(&self, group: u32, attr: u32) -> bool {
        attribute::has(self, (group, attr.into())).is_ok()
    }

    /// `KVM_SET_DEVICE_ATTR` with a value in memory.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_attr<T>(&self, group: u32, attr: u32, mut value: T) -> Result<(), Errno> {
        self.set_attr_at(group, attr, &raw mut value as u64)
    }

    /// `KVM_SET_DEVICE_ATTR` with an address as it is: the kernel's to refuse.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_attr_at(&self, group: u32, attr: u32, addr: u64) -> Result<(), Errno> {
        attribute::set_at(self, (group, attr.into()), addr)
    }

    /// Gives the vCPU's PMU its interrupt: `KVM_ARM_VCPU_PMU_V3_IRQ`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_pmu_irq(&self, intid: u32) -> Result<(), Errno> {
        self.set_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_IRQ, intid)
    }

    /// Makes the vCPU's PMU ready: `KVM_ARM_VCPU_PMU_V3_INIT`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn init_pmu(&self) -> Result<(), Errno> {
        self.set_attr_at(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, 0)
    }
}

impl Vm {
    /// `KVM_HAS_DEVICE_ATTR` on the VM.
    pub fn has_attr(&self, group: u32, attr: u32) -> bool {
        attribute::has(self, (group, attr.into())).is_ok()
    }

    /// `KVM_SET_DEVICE_ATTR` on the VM with a value in memory.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_attr<T>(&self, group: u32, attr: u32, mut value: T) -> Result<(), Errno> {
        self.set_attr_at(group, attr, &raw mut value as u64)
    }

    /// `KVM_SET_DEVICE_ATTR` on the VM with an address as it is: the kernel's to refuse.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_attr_at(&self, group: u32, attr: u32, addr: u64) -> Result<(), Errno> {
        attribute::set_at(self, (group, attr.into()), addr)
    }
}

/// Feature id registers that `KVM_ARM_GET_REG_WRITABLE_MASKS` tells of: op0 3, CRn 0.
const NR_FEATURE_IDS: usize = KVM_ARM_FEATURE_ID_RANGE_SIZE as usize;

impl Vm {
    /// `KVM_ARM_GET_REG_WRITABLE_MASKS`: what userspace can write of feature id registers, by
    /// [`feature_id`].
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn writable_masks(&self, range: u32, reserved: u32) -> Result<Box<[u64]>, Errno> {
        const KVM_ARM_GET_REG_WRITABLE_MASKS: u64 = 0x8040_aeb6;
        let mut masks = vec![0_u64; NR_FEATURE_IDS].into_boxed_slice();
        let mut request =
            reg_mask_range { addr: masks.as_mut_ptr() as u64, range, ..Default::default() };
        request.reserved[12] = reserved;
        let mut bytes = Vec::new();
        bytes.extend(request.addr.to_ne_bytes());
        bytes.extend(request.range.to_ne_bytes());
        bytes.extend(request.reserved.iter().flat_map(|word| word.to_ne_bytes()));
        self.raw(KVM_ARM_GET_REG_WRITABLE_MASKS, &mut bytes)?;
        Ok(masks)
    }
}

/// Where a feature id register's mask is: op1 (0, 1 or 3), CRm, op2 count up.
pub fn feature_id(register: &SysReg) -> usize {
    let [_, op1, _, crm, op2] = register.encoding.map(usize::from);
    (if op1 == 3 { 2 } else { op1 }) << 6 | crm << 3 | op2
}
