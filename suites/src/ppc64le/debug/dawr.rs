//! The second data address watchpoint (api.rst 7.23, KVM_CAP_PPC_DAWR1; PAPR, H_SET_MODE): a
//! guest has it once userspace says so, and both watchpoints are set by hypercall.
use crate::prelude::*;
use defs::ppc64le::dawr::dawrx;
use defs::ppc64le::interrupt::DSISR_DAWR_MATCH;
use hcall::code::*;
use hcall::set_mode::{SET_DAWR0, SET_DAWR1};

fn set_mode(resource: u64, flags: u64, address: u64, extension: u64) -> i64 {
    hcall::call(hcall::number::H_SET_MODE, [flags, resource, address, extension])
}

#[guest]
fn sets_without_leave(_: &mut Guest) {
    let got = set_mode(SET_DAWR1, 0, layout::SCRATCH, dawrx::SUPERVISOR | dawrx::DW);
    check_eq!("DAWR1 without its capability is H_FUNCTION", got, H_FUNCTION);
    let got = set_mode(SET_DAWR0, 0, 0, 0);
    check_eq!("DAWR0 needs no capability", got, H_SUCCESS);
}

#[guest]
fn sets(g: &mut Guest) {
    let resource = g.arg(0);
    const GOOD: u64 = dawrx::SUPERVISOR | dawrx::WTI | dawrx::DR | dawrx::DW;
    let got = set_mode(resource, 1, layout::SCRATCH, GOOD);
    check_eq!("reserved flags are H_UNSUPPORTED_FLAG_START", got, H_UNSUPPORTED_FLAG_START);
    let got = set_mode(resource, 0, layout::SCRATCH, GOOD | dawrx::HYPERVISOR);
    check_eq!("a match in hypervisor state is H_P4", got, H_P4);
    let got = set_mode(resource, 0, layout::SCRATCH, GOOD);
    check_eq!("a valid watchpoint is H_SUCCESS", got, H_SUCCESS);
    g.sync(1, &[layout::SCRATCH, GOOD]);
    check_eq!("clearing a watchpoint is H_SUCCESS", set_mode(resource, 0, 0, 0), H_SUCCESS);
    g.sync(2, &[]);
}

#[guest]
fn returns(_: &mut Guest) {}

#[guest]
fn watches(g: &mut Guest) {
    const WATCHED: u64 = layout::SCRATCH + 0x40;
    let resource = g.arg(0);
    let got = set_mode(resource, 0, WATCHED, dawrx::SUPERVISOR | dawrx::WTI | dawrx::DW);
    check_eq!("a watchpoint on stores is H_SUCCESS", got, H_SUCCESS);
    let (mut hits, mut dsisr, mut dar) = (0, 0, 0);
    with_handler(
        vector::DATA_STORAGE,
        |frame| {
            hits += 1;
            (dsisr, dar) = (frame.dsisr, frame.dar);
            frame.srr0 += 4;
        },
        || {
            poke(WATCHED - 8, 1_u64);
            poke(WATCHED + 8, 1_u64);
            let _: u64 = peek(WATCHED);
            poke(WATCHED, 1_u64);
        },
    );
    check_eq!("exactly one store matches the watchpoint", hits, 1);
    check_eq!(
        "DSISR reports that a watchpoint matched",
        dsisr & DSISR_DAWR_MATCH,
        DSISR_DAWR_MATCH
    );
    check_eq!("DAR is the store's address", dar, WATCHED);
    check_eq!("a watchpoint that matched can be cleared", set_mode(resource, 0, 0, 0), H_SUCCESS);
    poke(WATCHED, 2_u64);
}

#[host]
mod host {
    use super::*;

    kvm_tests! { requires(cap::PPC_DAWR1, cap::PPC_ENABLE_HCALL) }

    /// Lets KVM answer H_SET_MODE (api.rst 7.10, KVM_CAP_PPC_ENABLE_HCALL), which it leaves to userspace
    /// otherwise, and the guest have DAWR1 if it is to.
    fn enable(vm: &Vm, dawr1: bool) -> TestResult {
        use bindings::{KVM_CAP_PPC_DAWR1, KVM_CAP_PPC_ENABLE_HCALL};
        vm.enable_cap(KVM_CAP_PPC_ENABLE_HCALL, [hcall::number::H_SET_MODE, 1, 0, 0])
            .ioctl("KVM_ENABLE_CAP(KVM_CAP_PPC_ENABLE_HCALL)")?;
        if dawr1 {
            vm.enable_cap(KVM_CAP_PPC_DAWR1, [0; 4]).ioctl("KVM_ENABLE_CAP(KVM_CAP_PPC_DAWR1)")?;
        }
        Ok(())
    }

    /// H_SET_MODE of DAWR1 is H_FUNCTION until userspace has enabled KVM_CAP_PPC_DAWR1.
    #[kvm_test(sets_without_leave)]
    fn dawr1_is_unknown_until_enabled(t: &mut OneVcpu) -> TestResult {
        enable(&t.vm, false)?;
        t.vcpu.run_until_done()
    }

    /// What the guest sets is what KVM_GET_ONE_REG gives; what is refused changes nothing.
    #[kvm_test(sets, params = [
    first: (SET_DAWR0, reg::DAWR, reg::DAWRX),
    second: (SET_DAWR1, reg::DAWR1, reg::DAWRX1),
])]
    fn set_mode_sets_the_watchpoint(
        t: &mut OneVcpu,
        (resource, dawr, dawrx): (u64, u64, u64),
    ) -> TestResult {
        enable(&t.vm, true)?;
        t.vcpu.set_args(&[resource]);
        let set = t.vcpu.run_until_sync(1)?;
        let got = [t.vcpu.get_reg(dawr), t.vcpu.get_reg(dawrx)];
        check_eq!(
            "userspace reads the watchpoint that the guest set",
            got,
            [Ok(set[0]), Ok(set[1])]
        );
        t.vcpu.run_until_sync(2)?;
        let got = [t.vcpu.get_reg(dawr), t.vcpu.get_reg(dawrx)];
        check_eq!("userspace reads that the watchpoint is cleared", got, [Ok(0), Ok(0)]);
        t.vcpu.run_until_done()
    }

    /// KVM_SET_ONE_REG of DAWR1 and DAWRX1 is read back, and leaves the first watchpoint alone.
    #[kvm_test(returns)]
    fn registers_are_read_back(t: &mut OneVcpu) -> TestResult {
        enable(&t.vm, true)?;
        let registers = [
            (reg::DAWR, 0x1_0000),
            (reg::DAWRX, dawrx::DR),
            (reg::DAWR1, 0x2_0000),
            (reg::DAWRX1, dawrx::DW),
        ];
        for (id, value) in registers {
            t.vcpu.set_reg(id, value).ioctl("KVM_SET_ONE_REG")?;
        }
        for (id, value) in registers {
            check_eq!("register {id:x} reads as it was set", t.vcpu.get_reg(id), Ok(value));
        }
        t.vcpu.run_until_done()
    }

    /// A store to the doubleword that is watched is a data storage interrupt; its neighbours and loads are
    /// not.
    #[kvm_test(watches, params = [first: SET_DAWR0, second: SET_DAWR1])]
    fn watchpoint_matches(t: &mut OneVcpu, resource: u64) -> TestResult {
        enable(&t.vm, true)?;
        t.vcpu.set_args(&[resource]);
        t.vcpu.run_until_done()
    }
}
