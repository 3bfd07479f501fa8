//! KVM_GET_SUPPORTED_HV_CPUID: the leaves that make KVM look like Hyper-V (api.rst 4.118; TLFS,
//! "Feature and Interface Discovery").
use crate::prelude::*;

/// The host tells a leaf and its four registers as userspace set them; leaf 0 is the end.
#[guest]
fn reads_leaves(g: &mut Guest) {
    loop {
        let request = g.sync(1, &[]);
        if request[0] == 0 {
            return;
        }
        let got = cpuid(request[0] as u32, 0).map(u64::from);
        check_eq!("the guest's CPUID returns what userspace set", got.as_slice(), &request[1..5]);
    }
}

#[host]
mod host {
    use super::*;
    use {
        bindings::kvm_cpuid_entry2,
        cpuid::HYPERVISOR_STEP,
        hyperv::cpuid::{
            ENLIGHTENED_VMCS_VERSIONS, Features, INTERFACE_SIGNATURE, Recommendations,
            SYNDBG_SIGNATURE, leaf,
        },
        request::x86::KVM_GET_SUPPORTED_HV_CPUID,
        vm::arch::hyperv::supported_hyperv_cpuid,
    };

    fn find(leaves: &[kvm_cpuid_entry2], function: u32) -> TestResult<kvm_cpuid_entry2> {
        match leaves.iter().find(|entry| entry.function == function) {
            Some(entry) => Ok(*entry),
            None => fail!("no leaf {function:#x}"),
        }
    }

    fn features(leaves: &[kvm_cpuid_entry2]) -> TestResult<Features> {
        let entry = find(leaves, leaf::FEATURES)?;
        Ok(Features::from_cpuid([entry.eax, entry.ebx, entry.ecx, entry.edx]))
    }

    fn recommends(leaves: &[kvm_cpuid_entry2], what: Recommendations) -> TestResult<bool> {
        let entry = find(leaves, leaf::ENLIGHTENMENT_INFO)?;
        Ok(Recommendations::from_bits_retain(entry.eax).contains(what))
    }

    /// What every list must be.
    fn is_sound(leaves: &[kvm_cpuid_entry2]) -> TestResult {
        check!(
            "the list has at least the interface's six leaves",
            leaves.len() >= 6,
            "{}",
            leaves.len()
        );
        for entry in leaves {
            let in_order = (leaf::VENDOR_AND_MAX_FUNCTIONS
                ..leaf::VENDOR_AND_MAX_FUNCTIONS + HYPERVISOR_STEP)
                .contains(&entry.function);
            check!("all leaves are in the hypervisor range", in_order, "{entry:x?}");
            let plain = entry.index == 0 && entry.flags == 0 && entry.padding == [0; 3];
            check!("index, flags and padding are 0", plain, "{entry:x?}");
            let twins = leaves.iter().filter(|other| other.function == entry.function).count();
            check_eq!("each leaf is listed exactly once", twins, 1);
        }
        let vendor = find(leaves, leaf::VENDOR_AND_MAX_FUNCTIONS)?;
        let highest = leaves.iter().map(|entry| entry.function).max();
        check_eq!("the first leaf names the highest one", Some(vendor.eax), highest);
        let name: Vec<u8> =
            [vendor.ebx, vendor.ecx, vendor.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
        check_eq!(
            "the vendor's signature is KVM's",
            String::from_utf8_lossy(&name),
            "Linux KVM Hv"
        );
        check_eq!(
            "the interface's signature is Hyper-V's",
            find(leaves, leaf::INTERFACE)?.eax,
            INTERFACE_SIGNATURE
        );
        let limits = find(leaves, leaf::IMPLEMENT_LIMITS)?;
        check!("the limit of virtual processors is not 0", limits.eax > 0, "{limits:x?}");
        if let Ok(syndbg) = find(leaves, leaf::SYNDBG_INTERFACE) {
            check_eq!("the debugger's interface has its signature", syndbg.eax, SYNDBG_SIGNATURE);
        }
        let features = features(leaves)?;
        for (feature, what) in [
            (Features::ACCESS_PARTITION_REFERENCE_COUNTER, "TIME_REF_COUNT"),
            (Features::ACCESS_HYPERCALL_MSRS, "hypercall MSRs"),
            (Features::ACCESS_VP_INDEX, "VP_INDEX"),
            (Features::ACCESS_PARTITION_REFERENCE_TSC, "the reference TSC"),
        ] {
            check!("the feature is offered: {what}", features.contains(feature), "{features:?}");
        }
        Ok(())
    }

    /// The system's list.
    #[kvm_test(requires(cap::SYS_HYPERV_CPUID))]
    fn systems_leaves_are_sound(_: &mut HostOnly) -> TestResult {
        let system = System::get()?;
        let leaves = supported_hyperv_cpuid(system).ioctl("KVM_GET_SUPPORTED_HV_CPUID")?;
        is_sound(&leaves)?;
        let ipis = recommends(&leaves, Recommendations::USE_SYNTHETIC_CLUSTER_IPI)?;
        check!("IPIs by hypercall are recommended", ipis);
        Ok(())
    }

    /// A vCPU's list offers what needs the local APIC only where that is in the kernel, and the Enlightened
    /// VMCS only where there is one.
    #[kvm_test(requires(cap::HYPERV_CPUID), params = [none: Irqchip::None, kernel: Irqchip::Kernel])]
    fn vcpus_leaves_follow_its_apic(_: &mut HostOnly, irqchip: Irqchip) -> TestResult {
        let mut vm = Vm::new(irqchip)?;
        let vcpu = vm.create_vcpu(0)?;
        let leaves = supported_hyperv_cpuid(&vcpu).ioctl("KVM_GET_SUPPORTED_HV_CPUID")?;
        is_sound(&leaves)?;
        let in_kernel = irqchip == Irqchip::Kernel;
        let direct = features(&leaves)?.contains(Features::DIRECT_SYNTHETIC_TIMERS);
        check_eq!("direct synthetic timers need an in-kernel APIC", direct, in_kernel);
        let evmcs = find(&leaves, leaf::NESTED_FEATURES)
            .is_ok_and(|nested| nested.eax & ENLIGHTENED_VMCS_VERSIONS != 0);
        let told = recommends(&leaves, Recommendations::USE_ENLIGHTENED_VMCS)?;
        check_eq!("the Enlightened VMCS is recommended where it has a version", told, evmcs);
        Ok(())
    }

    /// IPIs by hypercall need the APIC too.
    #[kvm_test(requires(cap::HYPERV_CPUID), params = [none: Irqchip::None, kernel: Irqchip::Kernel])]
    fn ipi_hypercalls_follow_the_apic(_: &mut HostOnly, irqchip: Irqchip) -> TestResult {
        let mut vm = Vm::new(irqchip)?;
        let vcpu = vm.create_vcpu(0)?;
        let leaves = supported_hyperv_cpuid(&vcpu).ioctl("KVM_GET_SUPPORTED_HV_CPUID")?;
        let ipis = recommends(&leaves, Recommendations::USE_SYNTHETIC_CLUSTER_IPI)?;
        check_eq!(
            "IPI hypercalls are recommended with an in-kernel APIC only",
            ipis,
            irqchip == Irqchip::Kernel
        );
        Ok(())
    }

    /// A list without room for all leaves is E2BIG and left alone; a buffer that is not there is EFAULT.
    #[kvm_test(requires(cap::HYPERV_CPUID))]
    fn short_lists_are_refused(t: &mut OneVm) -> TestResult {
        const ENTRY: usize = size_of::<kvm_cpuid_entry2>();
        let vcpu = t.vm.create_vcpu(0)?;
        let leaves = supported_hyperv_cpuid(&vcpu).ioctl("KVM_GET_SUPPORTED_HV_CPUID")?.len();
        for nent in [0, 1, leaves - 1] {
            let mut list = vec![0x5a; 8 + ENTRY * nent];
            list[..4].copy_from_slice(&(nent as u32).to_ne_bytes());
            let before = list.clone();
            let got = vcpu.raw(KVM_GET_SUPPORTED_HV_CPUID, &mut list);
            check_eq!("room for {nent} of the leaves is E2BIG", got, Err(Errno::E2BIG));
            check!("a list without room ({nent} leaves) is left alone", list == before);
        }
        let mut short = vec![0; 8 + ENTRY * (leaves - 1)];
        short[..4].copy_from_slice(&(leaves as u32).to_ne_bytes());
        let got = vcpu.raw(KVM_GET_SUPPORTED_HV_CPUID, &mut short);
        check_eq!("memory that ends before the last leaf is EFAULT", got, Err(Errno::EFAULT));
        Ok(())
    }

    /// What KVM tells, KVM takes, and the guest sees all of it.
    #[kvm_test(requires(cap::HYPERV_CPUID))]
    fn guest_sees_the_leaves(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(reads_leaves))?;
        let leaves: Vec<_> = t.vm.cpuid_mut().as_slice().to_vec();
        for entry in leaves.iter().filter(|entry| entry.function >> 28 == 4) {
            vcpu.run_until_sync(1)?;
            let registers = [entry.eax, entry.ebx, entry.ecx, entry.edx].map(u64::from);
            vcpu.answer(&[
                entry.function.into(),
                registers[0],
                registers[1],
                registers[2],
                registers[3],
            ]);
        }
        vcpu.run_until_sync(1)?;
        vcpu.answer(&[0]);
        vcpu.run_until_done()
    }
}
