//! What KVM/ppc64le holds of a VM and its vCPUs (api.rst 4.68). There is no list of registers to be had from
//! KVM: those of api.rst that a server CPU can have are tried.

use std::ops::RangeInclusive;

use kvm_bindings::kvm_regs;

use super::{Core, Parts, Registers, State, keeps};
use crate::failure::TestResult;
use crate::request::{ior, iow};
use crate::{Ioctl, Irqchip, Vcpu, Vm};

/// Nothing counts while no vCPU runs.
pub const RUNS_ON: &[(&str, &str)] = &[];

const U32: u64 = 0x1020_0000_0000_0000;
const U64: u64 = 0x1030_0000_0000_0000;
const U128: u64 = 0x1040_0000_0000_0000;
/// Of a transaction's checkpoint.
const TM: u64 = 0x8000_0000;

/// Numbers of registers, by width, in the order of writing: ARCH_COMPAT first, by which KVM judges others;
/// then TB_OFFSET, by which the decrementer's expiry is meant, and VPA_ADDR, without which there are no
/// other areas.
const REGISTERS: [(u64, &[RangeInclusive<u64>]); 7] = [
    (U32, &[0xb7..=0xb7]),
    (U64, &[0x9c..=0x9c, 0x82..=0x82]),
    // DSISR, PMCs, VSCR, PMCs of supervisors, PSPB, VRSAVE, DABRX, ONLINE.
    (
        U32,
        &[
            0x0d..=0x0d,
            0x18..=0x1f,
            0x81..=0x81,
            0x9d..=0x9e,
            0xa4..=0xa4,
            0xb4..=0xb4,
            0xb8..=0xb8,
            0xbf..=0xbf,
        ],
    ),
    (
        U64,
        &[
            0x01..=0x01,
            0x07..=0x0c,
            0x0e..=0x17,
            0x20..=0x3f,
            0x80..=0x80,
            0x9f..=0xa3,
            0xa5..=0xb3,
            0xb5..=0xb6,
            0xb9..=0xba,
            0xbc..=0xbe,
            0xc0..=0xc8,
        ],
    ),
    // Vector registers, VSX registers, SLB shadow, dispatch trace log.
    (U128, &[0x40..=0x7f, 0x83..=0x84]),
    (U64 | TM, &[0x00..=0x1f, 0x60..=0x66, 0x68..=0x6a]),
    (U128 | TM, &[0x20..=0x5f]),
];

/// `struct kvm_sregs`: PVR and SLB.
const SREGS: usize = 1032;
const KVM_GET_SREGS: u64 = ior::<[u8; SREGS]>(0x83);
const KVM_SET_SREGS: u64 = iow::<[u8; SREGS]>(0x84);

/// Nothing is the VM's alone. In-kernel interrupt controllers and translation tables of userspace's are not
/// saved.
#[derive(Clone, Debug)]
pub struct SavedVm;

/// What is a vCPU's.
#[derive(Clone, Debug)]
pub struct SavedVcpu {
    /// `KVM_GET_REGS`.
    pub regs: kvm_regs,
    /// `KVM_GET_SREGS`.
    pub sregs: Vec<u8>,
    /// `KVM_GET_ONE_REG` of each register that there is.
    pub registers: Registers,
}

/// The interrupt controller that a restored VM begins with.
pub(super) fn saved_irqchip(irqchip: Irqchip) -> Irqchip {
    irqchip
}

impl SavedVm {
    /// Reads it.
    pub(super) fn save(_: &Core, _: &mut [&mut Vcpu]) -> TestResult<Self> {
        Ok(Self)
    }

    /// Nothing has to come before the first vCPU.
    pub(super) fn init(&self, _: &Vm) -> TestResult {
        Ok(())
    }

    /// Writes the vCPUs: the compatible architecture level first, then the offset of the time base, by which
    /// other registers are meant; regs last, since sregs may change the MSR.
    pub(super) fn restore(&self, _: &mut Vm, vcpus: &mut [Vcpu], state: &State) -> TestResult {
        for (vcpu, saved) in vcpus.iter().zip(&state.vcpus) {
            if keeps("sregs") {
                vcpu.raw(KVM_SET_SREGS, &mut saved.sregs.clone()).ioctl("KVM_SET_SREGS")?;
            }
            if keeps("registers") {
                saved.registers.write(vcpu, |_| true)?;
            }
            if keeps("regs") {
                vcpu.fd().set_regs(&saved.regs).ioctl("KVM_SET_REGS")?;
            }
        }
        Ok(())
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, _: &mut Parts) {}
}

impl SavedVcpu {
    /// Reads it.
    pub(super) fn save(_: &Core, vcpu: &mut Vcpu) -> TestResult<Self> {
        let ids = REGISTERS.iter().flat_map(|(width, numbers)| {
            numbers.iter().cloned().flatten().map(move |number| width | number)
        });
        let mut sregs = vec![0; SREGS];
        vcpu.raw(KVM_GET_SREGS, &mut sregs).ioctl("KVM_GET_SREGS")?;
        Ok(Self {
            regs: vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?,
            sregs,
            registers: Registers::of(vcpu, ids)?,
        })
    }

    /// Nothing has to come before the registers.
    pub(super) fn init(&self, _: &Vcpu) -> TestResult {
        Ok(())
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        let kvm_regs { pc, cr, ctr, lr, xer, msr, srr0, srr1, pid, sprg, gpr } = self.regs;
        for (name, value) in [
            ("pc", pc),
            ("cr", cr),
            ("ctr", ctr),
            ("lr", lr),
            ("xer", xer),
            ("msr", msr),
            ("srr0", srr0),
            ("srr1", srr1),
            ("pid", pid),
        ] {
            parts.number(name, value);
        }
        sprg.iter().zip(0..).for_each(|(value, n)| parts.number(format!("sprg{n}"), *value));
        gpr.iter().zip(0..).for_each(|(value, n)| parts.number(format!("r{n}"), *value));
        parts.add("sregs", &self.sregs);
        self.registers.parts(parts);
    }
}
