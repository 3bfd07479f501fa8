//! What the in-kernel interrupt controllers hold, as the host can see it.
#![expect(unsafe_code, reason = "reads the union that chip_id selects")]

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, kvm_irqchip};

use crate::kvm::{Ioctl, Vcpu, Vm};
use crate::outcome::TestResult;

/// Interrupt request register of the local APIC (SDM vol. 3, "APIC").
const IRR: usize = 0x200;

impl Vcpu {
    /// Whether `vector` is requested of this vCPU and not yet taken (IRR in `KVM_GET_LAPIC`).
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn is_pending(&self, vector: u8) -> TestResult<bool> {
        let lapic = self.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;
        let vector = usize::from(vector);
        let byte = lapic.regs[IRR + vector / 32 * 16 + vector % 32 / 8] as u8;
        Ok(byte >> (vector % 8) & 1 != 0)
    }

    /// Takes `vector` out of the local APIC's requests, as if the guest had taken it. Says whether
    /// it was there.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn drop_pending(&self, vector: u8) -> TestResult<bool> {
        let mut lapic = self.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;
        let vector = usize::from(vector);
        let byte = &mut lapic.regs[IRR + vector / 32 * 16 + vector % 32 / 8];
        let bit = 1_i8.rotate_left((vector % 8) as u32);
        let was = *byte & bit != 0;
        if was {
            *byte &= !bit;
            self.fd().set_lapic(&lapic).ioctl("KVM_SET_LAPIC")?;
        }
        Ok(was)
    }
}

impl Vm {
    /// Whether the line into `pin` of the I/O APIC is asserted (IRR in `KVM_GET_IRQCHIP`; means the
    /// line's level for level-triggered pins only).
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn ioapic_line(&self, pin: u32) -> TestResult<bool> {
        let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
        self.fd().get_irqchip(&mut chip).ioctl("KVM_GET_IRQCHIP")?;
        // SAFETY: the kernel filled the I/O APIC's state; it is plain integers.
        Ok(unsafe { chip.chip.ioapic.irr } >> pin & 1 != 0)
    }
}
