//! vCPUs that start in another mode than 64-bit.

use defs::bits;
use defs::x86::cr::{Cr0, Cr4, Efer};
use defs::x86::segment;
use guest_protocol::layout::x86_64::low::{PAGE_DIRECTORY, TEXT};
use guest_protocol::layout::x86_64::{CODE32, KERNEL_DS};
use guest_protocol::layout::{self, PAGE_TABLES};
use guest_runtime::arch::x86_64::modes::{
    Mode, PAGE_DIRECTORY_ENTRIES, Regs, page_directory_entry,
};
use guest_runtime::asm::Blob;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};

use crate::failure::{Failure, TestResult};
use crate::payload::Payload;
use crate::{Ioctl, Vcpu};

impl Vcpu {
    /// Registers for [`Vcpu::start_in`]: a stack, segments over what the mode can reach, and zeroes.
    pub fn mode_regs(&self, mode: Mode) -> Regs {
        Regs::on(mode, layout::vcpu_area(self.index.into()))
    }

    /// Sets the vCPU, which was set up for a guest function, into `mode` at the start of `code`, with an
    /// empty interrupt table: an exception shuts it down.
    ///
    /// # Errors
    ///
    /// KVM refuses the state, or the code is of another width.
    pub fn start_in(&mut self, mode: Mode, code: &Blob, regs: &Regs) -> TestResult {
        let code = Payload::get()?.code(code)?;
        if code.bits != mode.bits() {
            return Err(Failure::Error(format!("{} is no code for {mode:?}", code.name)));
        }
        let mut sregs = self.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        sregs.idt = kvm_dtable::default();
        (sregs.cr0, sregs.cr3) = (sregs.cr0 | Cr0::PE.bits(), PAGE_TABLES);
        match mode {
            Mode::Real => (sregs.cr0, sregs.efer) = (sregs.cr0 & !bits!(Cr0::{PE | PG}), 0),
            Mode::Protected => (sregs.cr0, sregs.efer) = (sregs.cr0 & !Cr0::PG.bits(), 0),
            Mode::Paged => {
                for nth in 0..PAGE_DIRECTORY_ENTRIES {
                    let (gpa, entry) =
                        (PAGE_DIRECTORY + 4 * u64::from(nth), page_directory_entry(nth));
                    self.ram.write(gpa, &entry.to_le_bytes()).expect("low memory is RAM");
                }
                (sregs.cr0, sregs.efer) = (sregs.cr0 | Cr0::PG.bits(), 0);
                (sregs.cr3, sregs.cr4) =
                    (PAGE_DIRECTORY, sregs.cr4 & !Cr4::PAE.bits() | Cr4::PSE.bits());
            }
            Mode::Compatibility => {
                (sregs.cr0, sregs.efer) =
                    (sregs.cr0 | Cr0::PG.bits(), sregs.efer | bits!(Efer::{LME | LMA}));
            }
        }
        let is_real = mode == Mode::Real;
        sregs.cs = if is_real {
            real_segment((TEXT >> 4) as u32)
        } else {
            kvm_segment { selector: CODE32, db: 1, l: 0, ..super::flat(CODE32, segment::CODE) }
        };
        let data = |selector: u32| {
            if is_real { real_segment(selector) } else { super::flat(KERNEL_DS, segment::DATA) }
        };
        (sregs.ds, sregs.es, sregs.ss) = (data(regs.ds), data(regs.es), data(regs.ss));
        (sregs.fs, sregs.gs) = (data(regs.fs), data(regs.gs));
        self.fd().set_sregs(&sregs).ioctl("KVM_SET_SREGS")?;
        let regs = kvm_regs {
            rip: code.address - if is_real { TEXT } else { 0 },
            rax: regs.eax.into(),
            rcx: regs.ecx.into(),
            rdx: regs.edx.into(),
            rbx: regs.ebx.into(),
            rsp: regs.esp.into(),
            rbp: regs.ebp.into(),
            rsi: regs.esi.into(),
            rdi: regs.edi.into(),
            rflags: regs.eflags.into(),
            ..Default::default()
        };
        self.fd().set_regs(&regs).ioctl("KVM_SET_REGS")
    }
}

/// A segment as real mode loads it.
fn real_segment(selector: u32) -> kvm_segment {
    kvm_segment {
        base: u64::from(selector) << 4,
        limit: 0xffff,
        selector: selector as u16,
        type_: segment::DATA,
        present: 1,
        s: 1,
        ..Default::default()
    }
}
