//! MSRs of AMD's CPUs that kernels write without asking CPUID: what KVM offers may be written both ways, and
//! what it does not keep is ignored.
use crate::prelude::*;
use msr::{
    DE_CFG_LFENCE_SERIALIZE, MSR_AMD64_BU_CFG2, MSR_AMD64_DC_CFG, MSR_AMD64_DE_CFG,
    MSR_AMD64_TW_CFG,
};

fn vector_of<T>(result: Result<T, Trap>) -> Option<(u8, u32)> {
    result.err().map(|trap| (trap.vector, trap.error))
}

/// The argument: what of MSR_AMD64_DE_CFG is offered.
#[guest]
fn writes_de_cfg(g: &mut Guest) {
    let offered = g.arg(0);
    for value in [0, offered, 0, offered, offered] {
        let written = vector_of(wrmsr_safe(MSR_AMD64_DE_CFG, value));
        check_eq!("the guest may write what MSR_AMD64_DE_CFG offers", written, None);
        check_eq!("MSR_AMD64_DE_CFG reads as the guest wrote it", rdmsr(MSR_AMD64_DE_CFG), value);
    }
    for bit in (0..64).filter(|bit| offered >> bit & 1 == 0) {
        let refused = vector_of(wrmsr_safe(MSR_AMD64_DE_CFG, offered | 1 << bit));
        check_eq!(
            "a bit that MSR_AMD64_DE_CFG does not offer is #GP",
            refused,
            Some((vector::GP, 0))
        );
    }
    let kept = rdmsr(MSR_AMD64_DE_CFG);
    check_eq!("a refused write leaves MSR_AMD64_DE_CFG unchanged", kept, offered);
}

#[guest]
fn writes_what_is_ignored(_: &mut Guest) {
    for (name, index) in [
        ("MSR_AMD64_DC_CFG", MSR_AMD64_DC_CFG),
        ("MSR_AMD64_TW_CFG", MSR_AMD64_TW_CFG),
        ("MSR_AMD64_BU_CFG2", MSR_AMD64_BU_CFG2),
    ] {
        check_eq!("{name} reads as 0", rdmsr_safe(index).ok(), Some(0));
        check_eq!("a write to {name} is no fault", vector_of(wrmsr_safe(index, 1 << 20)), None);
        check_eq!("a write to {name} is ignored", rdmsr_safe(index).ok(), Some(0));
    }
}

#[host]
mod host {
    use super::*;

    kvm_tests! { requires(cpu::SVM) }

    /// The guest may set and clear every bit of MSR_AMD64_DE_CFG that KVM_GET_MSRS of /dev/kvm offers.
    #[kvm_test(writes_de_cfg)]
    fn de_cfg_takes_what_is_offered(t: &mut OneVcpu) -> TestResult {
        let mut feature = bindings::Msrs::from_entries(&[bindings::kvm_msr_entry {
            index: MSR_AMD64_DE_CFG,
            ..Default::default()
        }])
        .map_err(|e| Failure::Error(format!("{e:?}")))?;
        let read = System::get()?.fd().get_msrs(&mut feature).ioctl("KVM_GET_MSRS of /dev/kvm")?;
        let offered = feature.as_slice()[0].data;
        require!(
            read == 1 && offered & DE_CFG_LFENCE_SERIALIZE != 0,
            "MSR_AMD64_DE_CFG with LFENCE_SERIALIZE among KVM's feature MSRs"
        );
        // Behind the first KVM_RUN it is one of the MSRs whose value userspace can no longer change.
        for value in [0, offered] {
            check!("userspace may write what is offered", t.vcpu.set_msr(MSR_AMD64_DE_CFG, value)?);
            let read = t.vcpu.msr(MSR_AMD64_DE_CFG)?;
            check_eq!("userspace reads what it wrote", read, Some(value));
        }
        t.vcpu.set_args(&[offered]);
        t.vcpu.run_until_done()
    }

    /// Windows and older kernels write these without asking: they are there, and nothing comes of it.
    #[kvm_test(writes_what_is_ignored)]
    fn workaround_msrs_are_ignored(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
