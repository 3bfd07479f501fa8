//! What exits of this architecture tell beside their reason.
#![expect(unsafe_code, reason = "reads the union in kvm_run that exit_reason selects")]

use defs::aarch64::esr::EC;
use kvm_bindings::{KVM_EXIT_DEBUG, KVM_EXIT_HYPERCALL, KVM_EXIT_SYSTEM_EVENT};

use crate::Vcpu;

/// What `KVM_EXIT_DEBUG` tells (`struct kvm_debug_exit_arch`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugExit {
    /// Exception class of the syndrome.
    pub class: u8,
    /// The syndrome.
    pub esr: u32,
    /// Of a watchpoint: the address that was touched.
    pub far: u64,
}

impl Vcpu {
    /// The last exit's, if it was `KVM_EXIT_DEBUG`.
    pub fn debug_exit(&mut self) -> Option<DebugExit> {
        let run = self.kvm_run();
        if run.exit_reason != KVM_EXIT_DEBUG {
            return None;
        }
        // SAFETY: `exit_reason` says which member the kernel wrote; all are plain integers.
        let arch = unsafe { run.__bindgen_anon_1.debug.arch };
        Some(DebugExit { class: EC.get(arch.hsr.into()) as u8, esr: arch.hsr, far: arch.far })
    }

    /// `KVM_HYPERCALL_EXIT_*` of the last exit, if it was `KVM_EXIT_HYPERCALL`.
    pub fn hypercall_flags(&mut self) -> Option<u64> {
        let run = self.kvm_run();
        if run.exit_reason != KVM_EXIT_HYPERCALL {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { run.__bindgen_anon_1.hypercall.__bindgen_anon_1.flags })
    }

    /// The first word of data of the last exit, if it was `KVM_EXIT_SYSTEM_EVENT` and has one.
    pub fn system_event_data(&mut self) -> Option<u64> {
        let run = self.kvm_run();
        if run.exit_reason != KVM_EXIT_SYSTEM_EVENT {
            return None;
        }
        // SAFETY: as above.
        let event = unsafe { run.__bindgen_anon_1.system_event };
        // SAFETY: both members of the union are plain integers.
        (event.ndata > 0).then(|| unsafe { event.__bindgen_anon_1.data[0] })
    }
}
