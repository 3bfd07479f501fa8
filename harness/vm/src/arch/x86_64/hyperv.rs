//! Hyper-V's CPUID leaves (api.rst 4.118), VMs that offer them, and Hyper-V's exits.
#![expect(unsafe_code, reason = "reads the union in kvm_run that the exit selects")]

use std::os::fd::AsRawFd;

use defs::x86::cpuid::leaf::HYPERVISOR;
use defs::x86::hyperv::cpuid::{Features, leaf};
use kvm_bindings::{
    CpuId, KVM_EXIT_HYPERV, KVM_EXIT_HYPERV_HCALL, KVM_EXIT_HYPERV_SYNIC, KVM_MAX_CPUID_ENTRIES,
    kvm_cpuid_entry2,
};
use nix::errno::Errno;

use crate::failure::{Failure, TestResult};
use crate::request::x86::KVM_GET_SUPPORTED_HV_CPUID;
use crate::{Exit, Irqchip, System, Vcpu, Vm, raw_ioctl};

/// Leaves of hypervisors: those that any interface may have.
const HYPERVISOR_LEAVES: std::ops::Range<u32> = HYPERVISOR..HYPERVISOR + 0x1000;
/// 32-bit words of `struct kvm_cpuid2` before its entries, and of one entry.
const HEADER_WORDS: usize = 2;
const ENTRY_WORDS: usize = 10;

/// `KVM_GET_SUPPORTED_HV_CPUID` of the system or of a vCPU.
///
/// # Errors
///
/// The errno.
pub fn supported_hyperv_cpuid(fd: &impl AsRawFd) -> Result<Vec<kvm_cpuid_entry2>, Errno> {
    let mut bytes = vec![0; 4 * (HEADER_WORDS + ENTRY_WORDS * KVM_MAX_CPUID_ENTRIES)];
    bytes[..4].copy_from_slice(&(KVM_MAX_CPUID_ENTRIES as u32).to_ne_bytes());
    raw_ioctl(fd, KVM_GET_SUPPORTED_HV_CPUID, &mut bytes)?;
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    let entries = words[HEADER_WORDS..].chunks_exact(ENTRY_WORDS).take(words[0] as usize);
    Ok(entries
        .map(|entry| kvm_cpuid_entry2 {
            function: entry[0],
            index: entry[1],
            flags: entry[2],
            eax: entry[3],
            ebx: entry[4],
            ecx: entry[5],
            edx: entry[6],
            padding: [entry[7], entry[8], entry[9]],
        })
        .collect())
}

/// The leaves, from the system or, where that has no such ioctl, from a vCPU of a VM with an
/// in-kernel local APIC.
fn leaves() -> TestResult<Vec<kvm_cpuid_entry2>> {
    let system = System::get()?;
    if let Ok(leaves) = supported_hyperv_cpuid(system) {
        return Ok(leaves);
    }
    let mut vm = Vm::new(Irqchip::Kernel)?;
    let vcpu = vm.create_vcpu(0)?;
    supported_hyperv_cpuid(&vcpu)
        .map_err(|errno| Failure::Skip(format!("KVM_GET_SUPPORTED_HV_CPUID ({errno})")))
}

impl Vm {
    /// Gives vCPUs made from now on Hyper-V's CPUID leaves in place of KVM's own: all that KVM
    /// supports.
    ///
    /// # Errors
    ///
    /// KVM has none: a skip.
    pub fn offer_hyperv(&mut self) -> TestResult {
        let leaves = leaves()?;
        let cpuid = self.cpuid_mut();
        let others =
            cpuid.as_slice().iter().filter(|entry| !HYPERVISOR_LEAVES.contains(&entry.function));
        let all: Vec<_> = others.copied().chain(leaves).collect();
        *cpuid = CpuId::from_entries(&all)
            .map_err(|e| Failure::Error(format!("too many CPUID leaves: {e:?}")))?;
        Ok(())
    }

    /// The features that vCPUs made from now on are offered.
    ///
    /// # Errors
    ///
    /// There is no such leaf: a skip.
    pub fn hyperv_features(&mut self) -> TestResult<Features> {
        let entry = self.cpuid_leaf(leaf::FEATURES)?;
        Ok(Features::from_cpuid([entry.eax, entry.ebx, entry.ecx, entry.edx]))
    }

    /// Sets the features that vCPUs made from now on are offered.
    ///
    /// # Errors
    ///
    /// There is no such leaf: a skip.
    pub fn set_hyperv_features(&mut self, features: Features) -> TestResult {
        let entry = self.cpuid_leaf(leaf::FEATURES)?;
        [entry.eax, entry.ebx, entry.ecx, entry.edx] = features.to_cpuid();
        Ok(())
    }

    /// The leaf `function` of the CPUID that vCPUs made from now on get.
    ///
    /// # Errors
    ///
    /// There is none: a skip.
    pub fn cpuid_leaf(&mut self, function: u32) -> TestResult<&mut kvm_cpuid_entry2> {
        let found = self.cpuid_mut().as_mut_slice().iter_mut().find(|e| e.function == function);
        found.ok_or_else(|| Failure::Skip(format!("CPUID leaf {function:#x}")))
    }
}

/// What `KVM_EXIT_HYPERV` tells (api.rst 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypervExit {
    /// `KVM_EXIT_HYPERV_SYNIC`: the guest has written one of the SynIC's control MSRs.
    #[expect(missing_docs, reason = "the API's names")]
    Synic { msr: u32, control: u64, evt_page: u64, msg_page: u64 },
    /// `KVM_EXIT_HYPERV_HCALL`: a hypercall for userspace.
    #[expect(missing_docs, reason = "the API's names")]
    Hcall { input: u64, params: [u64; 2] },
    /// Another type, by number.
    Other(u32),
}

impl Vcpu {
    /// Runs until `KVM_EXIT_HYPERV`.
    ///
    /// # Errors
    ///
    /// Any other exit.
    pub fn run_until_hyperv(&mut self) -> TestResult<HypervExit> {
        self.run_until(Exit::Other(KVM_EXIT_HYPERV))?;
        // SAFETY: the exit and its type select the members; all are plain integers.
        unsafe {
            let told = self.kvm_run().__bindgen_anon_1.hyperv;
            Ok(match told.type_ {
                KVM_EXIT_HYPERV_SYNIC => {
                    let synic = told.u.synic;
                    HypervExit::Synic {
                        msr: synic.msr,
                        control: synic.control,
                        evt_page: synic.evt_page,
                        msg_page: synic.msg_page,
                    }
                }
                KVM_EXIT_HYPERV_HCALL => {
                    let hcall = told.u.hcall;
                    HypervExit::Hcall { input: hcall.input, params: hcall.params }
                }
                other => HypervExit::Other(other),
            })
        }
    }

    /// Answers [`HypervExit::Hcall`]: what the guest gets in RAX.
    pub fn complete_hyperv_hcall(&mut self, result: u64) {
        self.kvm_run().__bindgen_anon_1.hyperv.u.hcall.result = result;
    }
}
