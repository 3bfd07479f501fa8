//! A vCPU before KVM_ARM_VCPU_INIT (api.rst 4.82): every call on its state is ENOEXEC.
use crate::prelude::*;

#[host]
mod host {
    use super::*;
    use {
        bindings::{kvm_mp_state, kvm_vcpu_events},
        request::{KVM_CREATE_VCPU, KVM_GET_ONE_REG, KVM_GET_REG_LIST, KVM_RUN, ior, iow},
    };

    /// Neither reads nor writes anything, before the first initialization.
    #[kvm_test]
    fn state_is_refused_before_init(t: &mut OneVm) -> TestResult {
        const KVM_GET_MP_STATE: u64 = ior::<kvm_mp_state>(0x98);
        const KVM_GET_VCPU_EVENTS: u64 = ior::<kvm_vcpu_events>(0x9f);
        const KVM_SET_VCPU_EVENTS: u64 = iow::<kvm_vcpu_events>(0xa0);
        /// `struct kvm_one_reg`.
        const KVM_SET_ONE_REG: u64 = iow::<[u64; 2]>(0xac);
        let vcpu = raw_ioctl_value_fd(&t.vm, KVM_CREATE_VCPU, 0).ioctl("KVM_CREATE_VCPU")?;
        let value = GuardedBuffer::new(&[0; 8]);
        let one_reg = [SCTLR_EL1.one_reg().to_ne_bytes(), value.address().to_ne_bytes()].concat();
        let events = vec![0; size_of::<kvm_vcpu_events>()];
        for (name, request, argument) in [
            ("KVM_GET_ONE_REG", KVM_GET_ONE_REG, &one_reg),
            ("KVM_SET_ONE_REG", KVM_SET_ONE_REG, &one_reg),
            ("KVM_GET_REG_LIST", KVM_GET_REG_LIST, &vec![0; 8]),
            ("KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS, &events),
            ("KVM_SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS, &events),
        ] {
            let got = raw_ioctl(&vcpu, request, &mut argument.clone());
            check_eq!("{name} before KVM_ARM_VCPU_INIT is ENOEXEC", got, Err(Errno::ENOEXEC));
        }
        let got = raw_ioctl_value(&vcpu, KVM_RUN, 0);
        check_eq!("KVM_RUN before KVM_ARM_VCPU_INIT is ENOEXEC", got, Err(Errno::ENOEXEC));
        let got = raw_ioctl(&vcpu, KVM_GET_MP_STATE, &mut vec![0; size_of::<kvm_mp_state>()]);
        check_eq!("KVM_GET_MP_STATE needs no KVM_ARM_VCPU_INIT", got, Ok(0));
        Ok(())
    }
}
