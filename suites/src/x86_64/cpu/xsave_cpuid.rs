//! Extended state and the guest's CPUID: KVM_SET_XSAVE takes what another host saved, also of features that
//! this guest's CPUID lacks; KVM_GET_XSAVE has none of them (api.rst 4.42, 4.43).
use crate::prelude::*;
use defs::x86::xsave::Xcr0;

#[host]
mod host {
    use super::*;
    use {
        cpuid::{feature, leaf},
        defs::x86::xsave::area::XSTATE_BV,
        request::x86::{KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_SET_XSAVE},
        vm::bindings::KVM_CAP_XSAVE2,
    };

    /// Takes AVX, and all that needs it, out of the CPUID of vCPUs to come. Says whether it was there.
    fn hide_avx(vm: &mut Vm) -> bool {
        let mut had_it = false;
        for entry in vm.cpuid_mut().as_mut_slice() {
            match (entry.function, entry.index) {
                (leaf::FEATURES, _) => entry.ecx &= !feature::AVX.mask(),
                (leaf::STRUCTURED_FEATURES, _) => (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0),
                (leaf::XSAVE, 0) => {
                    had_it = Xcr0::from_bits_retain(entry.eax.into()).contains(Xcr0::AVX);
                    (entry.eax, entry.edx) = (bits!(Xcr0::{X87 | SSE}) as u32, 0);
                }
                _ => {}
            }
        }
        had_it
    }

    fn xstate_bv(area: &[u8]) -> u64 {
        u64::from_ne_bytes(area[XSTATE_BV..][..8].try_into().unwrap_or_default())
    }

    const ALL: u64 = bits!(Xcr0::{X87 | SSE | AVX});

    const OFFERED: u64 = bits!(Xcr0::{X87 | SSE});

    /// An area with more than the guest's CPUID offers is taken before and after the first run; what is read back
    /// has the guest's features only, and is taken again.
    #[kvm_test(requires(cap::XSAVE))]
    fn area_of_a_larger_cpu_is_taken(t: &mut OneVm) -> TestResult {
        require!(hide_avx(&mut t.vm), "AVX in KVM's CPUID leaf 0xd");
        let vcpu = t.vm.create_vcpu(0)?;
        let size = (t.vm.check_extension(KVM_CAP_XSAVE2) as usize).max(4096);
        let get = || -> TestResult<Vec<u8>> {
            let mut area = vec![0; size];
            let request = if size > 4096 { KVM_GET_XSAVE2 } else { KVM_GET_XSAVE };
            vcpu.raw(request, &mut area).ioctl("KVM_GET_XSAVE")?;
            Ok(area)
        };
        let mut area = get()?;
        for bits in [ALL, OFFERED, ALL] {
            area[XSTATE_BV..][..8].copy_from_slice(&bits.to_ne_bytes());
            let got = vcpu.raw(KVM_SET_XSAVE, &mut area.clone());
            check_eq!("KVM_SET_XSAVE takes state of features beside the guest's CPUID", got, Ok(0));
            let kept = xstate_bv(&get()?);
            check_eq!("KVM_GET_XSAVE has no feature beside the guest's CPUID", kept & !OFFERED, 0);
            let got = vcpu.raw(KVM_SET_XSAVE, &mut get()?);
            check_eq!("KVM_SET_XSAVE takes what KVM_GET_XSAVE returned", got, Ok(0));
        }
        area[XSTATE_BV..][..8].copy_from_slice(&(ALL | 1 << 62).to_ne_bytes());
        let got = vcpu.raw(KVM_SET_XSAVE, &mut area);
        check_eq!("state of a feature that no CPU has is EINVAL", got, Err(Errno::EINVAL));
        Ok(())
    }
}
