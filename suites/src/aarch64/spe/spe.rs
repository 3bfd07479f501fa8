//! The Statistical Profiling Extension (ARM ARM D16), which no released KVM gives to guests: that it is
//! hidden, register by register. `spe_abi.rs` has what a KVM that gives it must do.
use crate::prelude::*;

/// The extension's registers that EL1 has.
const SPE: [SysReg; 12] = [
    PMSCR_EL1,
    PMSNEVFR_EL1,
    PMSICR_EL1,
    PMSIRR_EL1,
    PMSFCR_EL1,
    PMSEVFR_EL1,
    PMSLATFR_EL1,
    PMSIDR_EL1,
    PMBLIMITR_EL1,
    PMBPTR_EL1,
    PMBSR_EL1,
    PMBIDR_EL1,
];

#[guest]
fn looks_for_spe(_: &mut Guest) {
    let version = dfr0::PMSVER.get(ID_AA64DFR0_EL1.read());
    check_eq!("ID_AA64DFR0_EL1.PMSVer reports no SPE", version, 0);
    for register in SPE {
        let name = register.name;
        let read = register.read_safe().map_err(|t| t.vector);
        check_eq!("reading {name} is undefined without SPE", read, Err(vector::UNKNOWN));
        let written = register.write_safe(0).map_err(|t| t.vector);
        check_eq!("writing {name} is undefined without SPE", written, Err(vector::UNKNOWN));
    }
    let read = PMSCR_EL2.read_safe().map_err(|t| t.vector);
    check_eq!("PMSCR_EL2 is undefined at EL1", read, Err(vector::UNKNOWN));
    check!("PSB CSYNC is a hint without effect", psb_csync_safe().is_ok());
    let el0 = user::run(&[insn::mrs(&PMSIDR_EL1), insn::SVC], [0; 4]);
    check_eq!("PMSIDR_EL1 is undefined at EL0", el0.value(), Err(vector::UNKNOWN));
}

#[guest]
fn idles(_: &mut Guest) {}

#[host]
mod host {
    use super::*;

    /// A guest sees no SPE: PMSVer is 0, and every register is UNDEFINED, with a PMU and without.
    #[kvm_test(looks_for_spe, irqchip, params = [without_pmu: false, with_pmu: true])]
    fn profiling_is_hidden(t: &mut HostOnly, with_pmu: bool) -> TestResult {
        let mut setup = t.setup.clone();
        if with_pmu {
            let has = System::get()?.check_extension(vm::bindings::KVM_CAP_ARM_PMU_V3) > 0;
            require!(has, "KVM_CAP_ARM_PMU_V3");
            setup.config = setup.config.pmu();
        }
        OneVcpu::new(setup)?.vcpu.run_until_done()
    }

    /// Userspace cannot give a guest SPE by ID_AA64DFR0_EL1 alone, and sees none of its registers.
    #[kvm_test(idles)]
    fn userspace_cannot_conjure_it(t: &mut OneVcpu) -> TestResult {
        let before = t.vcpu.get_sysreg(&ID_AA64DFR0_EL1).ioctl("KVM_GET_ONE_REG")?;
        check_eq!("userspace reads PMSVer as 0", dfr0::PMSVER.get(before), 0);
        for version in 1..=5 {
            let set = t.vcpu.set_sysreg(&ID_AA64DFR0_EL1, before | dfr0::PMSVER.of(version));
            check_eq!("PMSVer other than 0 is EINVAL", set, Err(Errno::EINVAL));
        }
        check_eq!("a refused PMSVer stays 0", t.vcpu.get_sysreg(&ID_AA64DFR0_EL1), Ok(before));
        let listed = crate::aarch64::cpu::sysreg::register_list(&t.vcpu)?;
        for register in SPE {
            let name = register.name;
            check!("{name} is not in KVM_GET_REG_LIST", !listed.contains(&register.one_reg()));
            check_eq!(
                "KVM_GET_ONE_REG of {name} is ENOENT",
                t.vcpu.get_sysreg(&register),
                Err(Errno::ENOENT)
            );
        }
        t.vcpu.run_until_done()
    }
}
