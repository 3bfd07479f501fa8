//! What KVM/s390 holds of a VM and its vCPUs (api.rst 4 and 5; devices/vm.rst; devices/s390_flic.rst).
//! Storage keys belong to the memory, which stays.

use kvm_bindings::{KVM_SYNC_PREFIX, kvm_fpu, kvm_s390_irq_state, kvm_sregs, kvm_sync_regs};

use zerocopy::IntoBytes as _;

use super::{Core, Parts, Registers, State, keeps};
use crate::failure::TestResult;
use crate::request::s390x::{
    KVM_GET_FPU, KVM_GET_SREGS, KVM_S390_GET_IRQ_STATE, KVM_S390_SET_IRQ_STATE, KVM_SET_FPU,
    KVM_SET_SREGS,
};
use crate::{GuardedBuffer, Ioctl, Irqchip, Vcpu, Vm, attribute};

/// Pieces that run on by themselves, and why they are not the same a moment later.
pub const RUNS_ON: &[(&str, &str)] = &[("TOD clock", "it counts")];

/// KVM_S390_VM_TOD_LOW: the TOD clock's 64 bits.
const TOD: (u32, u64) = (1, 0);
/// KVM_S390_VM_CPU_PROCESSOR: the CPU model's id and facilities, and its bytes.
const CPU_PROCESSOR: (u32, u64) = (3, 0);
const CPU_PROCESSOR_SIZE: usize = 16 + 256 * 8;
/// KVM_S390_VM_CPU_PROCESSOR_FEAT: its other features.
const CPU_FEATURES: (u32, u64) = (3, 2);
const CPU_FEATURES_SIZE: usize = 16 * 8;

/// Registers for `KVM_GET_ONE_REG`: TODPR, of 32 bits, to the breaking-event address.
const REGISTERS: [u64; 9] = {
    const U32: u64 = 0x5020_0000_0000_0000;
    const U64: u64 = 0x5030_0000_0000_0000;
    [U32 | 1, U32 | 2, U64 | 3, U64 | 4, U64 | 5, U64 | 6, U64 | 7, U64 | 8, U64 | 9]
};

/// Bytes for a vCPU's pending interrupts: more than there can be.
const MOST_IRQS: usize = 72 * 1024;

/// What is the VM's. Pending floating interrupts are not saved: no test leaves one.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named as the attributes that read them")]
pub struct SavedVm {
    pub cpu_processor: Option<Vec<u8>>,
    pub cpu_features: Option<Vec<u8>>,
    pub tod: Option<Vec<u8>>,
}

/// What is a vCPU's.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named as the ioctls that read them")]
pub struct SavedVcpu {
    /// PSW, as `kvm_run` has it.
    pub psw: [u64; 2],
    /// What `kvm_run` synchronizes: general, access, vector and floating-point registers live there, and the
    /// prefix is set there only.
    pub sync_regs: kvm_sync_regs,
    /// What of it userspace has changed since.
    pub dirty_regs: u64,
    /// Access and control registers.
    pub sregs: Vec<u8>,
    pub fpu: Vec<u8>,
    pub registers: Registers,
    /// Pending interrupts of this vCPU.
    pub irqs: Vec<u8>,
}

/// The interrupt controller that a restored VM begins with.
pub(super) fn saved_irqchip(irqchip: Irqchip) -> Irqchip {
    irqchip
}

fn read(core: &Core, of: (u32, u64), size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size];
    attribute::get(&core.fd, of, &mut bytes).ok().map(|_| bytes)
}

impl SavedVm {
    /// Reads it.
    pub(super) fn save(core: &Core, _: &mut [&mut Vcpu]) -> TestResult<Self> {
        Ok(Self {
            cpu_processor: read(core, CPU_PROCESSOR, CPU_PROCESSOR_SIZE),
            cpu_features: read(core, CPU_FEATURES, CPU_FEATURES_SIZE),
            tod: read(core, TOD, 8),
        })
    }

    /// Writes what must come before the first vCPU: the CPU model, where it is not what a VM begins with.
    pub(super) fn init(&self, vm: &Vm) -> TestResult {
        for (name, of, saved) in [
            ("KVM_S390_VM_CPU_PROCESSOR", CPU_PROCESSOR, &self.cpu_processor),
            ("KVM_S390_VM_CPU_PROCESSOR_FEAT", CPU_FEATURES, &self.cpu_features),
        ] {
            if let Some(bytes) = saved
                && read(vm.core(), of, bytes.len()).as_ref() != Some(bytes)
            {
                attribute::set(vm, of, bytes).ioctl(name)?;
            }
        }
        Ok(())
    }

    /// Writes vCPUs and VM. The TOD clock comes before the clock comparators, which are compared with it.
    pub(super) fn restore(&self, vm: &mut Vm, vcpus: &mut [Vcpu], state: &State) -> TestResult {
        for tod in self.tod.iter().filter(|_| keeps("tod")) {
            attribute::set(vm, TOD, tod).ioctl("KVM_S390_VM_TOD_LOW")?;
        }
        for (vcpu, saved) in vcpus.iter_mut().zip(&state.vcpus) {
            saved.restore(vcpu)?;
        }
        Ok(())
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        for (name, bytes) in [
            ("CPU model", &self.cpu_processor),
            ("CPU features", &self.cpu_features),
            ("TOD clock", &self.tod),
        ] {
            bytes.iter().for_each(|bytes| parts.add(name, bytes));
        }
    }
}

/// `struct kvm_s390_irq_state` for `buffer`.
fn irq_state(buffer: &GuardedBuffer, len: usize) -> kvm_s390_irq_state {
    kvm_s390_irq_state { buf: buffer.address(), len: len as u32, ..Default::default() }
}

impl SavedVcpu {
    /// Reads it.
    pub(super) fn save(_: &Core, vcpu: &mut Vcpu) -> TestResult<Self> {
        let (mut sregs, mut fpu) = (vec![0; size_of::<kvm_sregs>()], vec![0; size_of::<kvm_fpu>()]);
        vcpu.raw(KVM_GET_SREGS, &mut sregs).ioctl("KVM_GET_SREGS")?;
        vcpu.raw(KVM_GET_FPU, &mut fpu).ioctl("KVM_GET_FPU")?;
        let buffer = GuardedBuffer::new(&vec![0; MOST_IRQS]);
        let mut request = irq_state(&buffer, MOST_IRQS);
        let used = vcpu.raw(KVM_S390_GET_IRQ_STATE, request.as_mut_bytes());
        let used = used.ioctl("KVM_S390_GET_IRQ_STATE")? as usize;
        let registers = Registers::of(vcpu, REGISTERS)?;
        let run = vcpu.kvm_run();
        Ok(Self {
            psw: [run.psw_mask, run.psw_addr],
            dirty_regs: run.kvm_dirty_regs,
            sync_regs: *vcpu.sync_regs(),
            sregs,
            fpu,
            registers,
            irqs: buffer.bytes()[..used].to_vec(),
        })
    }

    /// Nothing has to come before the registers.
    pub(super) fn init(&self, _: &Vcpu) -> TestResult {
        Ok(())
    }

    /// `kvm_run` first: the ioctls behind it write to it too.
    fn restore(&self, vcpu: &mut Vcpu) -> TestResult {
        *vcpu.sync_regs() = self.sync_regs;
        let run = vcpu.kvm_run();
        [run.psw_mask, run.psw_addr] = self.psw;
        run.kvm_dirty_regs = self.dirty_regs | KVM_SYNC_PREFIX;
        if keeps("sregs") {
            vcpu.raw(KVM_SET_SREGS, &mut self.sregs.clone()).ioctl("KVM_SET_SREGS")?;
        }
        if keeps("fpu") {
            vcpu.raw(KVM_SET_FPU, &mut self.fpu.clone()).ioctl("KVM_SET_FPU")?;
        }
        if keeps("registers") {
            self.registers.write(vcpu, |_| true)?;
        }
        if !self.irqs.is_empty() && keeps("interrupts") {
            let buffer = GuardedBuffer::new(&self.irqs);
            let mut request = irq_state(&buffer, self.irqs.len());
            vcpu.raw(KVM_S390_SET_IRQ_STATE, request.as_mut_bytes())
                .ioctl("KVM_S390_SET_IRQ_STATE")?;
        }
        Ok(())
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        let sync = &self.sync_regs;
        parts.number("PSW mask", self.psw[0]);
        parts.number("PSW address", self.psw[1]);
        parts.number("prefix", sync.prefix);
        sync.gprs.iter().zip(0..).for_each(|(value, n)| parts.number(format!("r{n}"), *value));
        sync.vrs.iter().zip(0..).for_each(|(value, n)| parts.number(format!("vrs[{n}]"), *value));
        parts.add("sregs", &self.sregs);
        parts.add("fpu", &self.fpu);
        self.registers.parts(parts);
        parts.add("interrupts", &self.irqs);
    }
}
