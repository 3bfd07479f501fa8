//! What the in-kernel interrupt controllers hold, as the host can see it.
#![expect(unsafe_code, reason = "uses the unions that chip_id selects")]

use defs::x86::apic::reg;
use kvm_bindings::{KVM_IOAPIC_NUM_PINS, KVM_IRQCHIP_IOAPIC, kvm_irqchip};
use nix::errno::Errno;

use crate::failure::TestResult;
use crate::{Ioctl, Vcpu, Vm};

/// The byte of `struct kvm_lapic_state` that has the request of `vector`.
fn requested(vector: u8) -> usize {
    reg::word(reg::IRR, vector) as usize + usize::from(vector % 32 / 8)
}

impl Vcpu {
    /// Whether `vector` is requested of this vCPU and not yet taken (IRR in `KVM_GET_LAPIC`).
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn is_pending(&self, vector: u8) -> TestResult<bool> {
        let lapic = self.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;
        let byte = lapic.regs[requested(vector)] as u8;
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
        let byte = &mut lapic.regs[requested(vector)];
        let bit = 1_i8.rotate_left(u32::from(vector % 8));
        let was = *byte & bit != 0;
        if was {
            *byte &= !bit;
            self.fd().set_lapic(&lapic).ioctl("KVM_SET_LAPIC")?;
        }
        Ok(was)
    }
}

/// `struct kvm_ioapic_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoapicState {
    /// Where the registers are.
    pub base: u64,
    /// IOREGSEL.
    pub select: u32,
    /// The ID.
    pub id: u32,
    /// Lines that are up, and edges not yet delivered.
    pub irr: u32,
    /// Redirection entries.
    pub entries: [u64; KVM_IOAPIC_NUM_PINS as usize],
}

impl Vm {
    /// `KVM_GET_IRQCHIP` of the I/O APIC.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn ioapic(&self) -> TestResult<IoapicState> {
        let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
        self.fd().get_irqchip(&mut chip).ioctl("KVM_GET_IRQCHIP")?;
        // SAFETY: the kernel filled the I/O APIC's state; it is plain integers.
        let state = unsafe { chip.chip.ioapic };
        Ok(IoapicState {
            base: state.base_address,
            select: state.ioregsel,
            id: state.id,
            irr: state.irr,
            // SAFETY: either member of the union is plain integers.
            entries: state.redirtbl.map(|entry| unsafe { entry.bits }),
        })
    }

    /// `KVM_SET_IRQCHIP` of the I/O APIC.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn set_ioapic(&self, state: &IoapicState) -> TestResult {
        let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
        let IoapicState { base, select, id, irr, entries } = *state;
        // SAFETY: the structure starts zeroed, and every member is plain integers.
        let ioapic = unsafe { &mut chip.chip.ioapic };
        (ioapic.base_address, ioapic.ioregsel, ioapic.id, ioapic.irr) = (base, select, id, irr);
        for (to, bits) in ioapic.redirtbl.iter_mut().zip(entries) {
            to.bits = bits;
        }
        self.fd().set_irqchip(&chip).ioctl("KVM_SET_IRQCHIP")
    }

    /// `KVM_IRQ_LINE` of `gsi`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_irq_line(&self, gsi: u32, up: bool) -> Result<(), Errno> {
        self.fd().set_irq_line(gsi, up).errno()?;
        let lines = &mut self.core().inventory().arch.lines;
        if up {
            lines.insert(gsi)
        } else {
            lines.remove(&gsi)
        };
        Ok(())
    }

    /// Whether the line into `pin` of the I/O APIC is asserted (IRR in `KVM_GET_IRQCHIP`; means the
    /// line's level for level-triggered pins only).
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn ioapic_line(&self, pin: u32) -> TestResult<bool> {
        Ok(self.ioapic()?.irr >> pin & 1 != 0)
    }
}
