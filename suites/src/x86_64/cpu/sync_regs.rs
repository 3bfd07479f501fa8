//! Registers in `kvm_run`: KVM_CAP_SYNC_REGS (api.rst 6.5, and the end of chapter 5).
use crate::prelude::*;

const STOP_PORT: u16 = 0x84;
const GUEST_VALUE: u32 = 0x55;
const CR2_VALUE: u64 = 0xabcd_e000;
const ERROR_CODE: u32 = 0x20;

#[shared]
static RUNS: AtomicU64 = AtomicU64::new(0);

/// Stops with a known RAX; reports RAX, CR2 and #GP as it goes on.
#[guest]
fn stops(g: &mut Guest) {
    let mut code = 0;
    with_handler(
        vector::GP,
        |frame| code = frame.error,
        || {
            RUNS.store(1, SeqCst);
            outl(STOP_PORT, GUEST_VALUE);
        },
    );
    RUNS.store(2, SeqCst);
    g.sync(1, &[read_cr2(), code]);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_CAP_SYNC_REGS, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS,
    };

    kvm_tests! { requires(cap::SYNC_REGS) }
    const ALL: u64 = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS) as u64;

    fn run_to_stop(vcpu: &mut Vcpu, valid: u64) -> TestResult {
        vcpu.kvm_run().kvm_valid_regs = valid;
        vcpu.run_until(Exit::io_out(STOP_PORT))?;
        vcpu.complete_exit()
    }

    /// The capability is the set of register sets.
    #[kvm_test]
    fn capability_names_the_register_sets(t: &mut OneVm) -> TestResult {
        let sets = t.vm.check_extension(KVM_CAP_SYNC_REGS) as u64;
        check_eq!("REGS, SREGS and EVENTS are offered, nothing else", sets, ALL);
        Ok(())
    }

    /// Sets that KVM does not know fail KVM_RUN with EINVAL before the guest runs.
    #[kvm_test(stops)]
    fn unknown_sets_are_refused(t: &mut OneVcpu) -> TestResult {
        let refused = Exit::RunFailed { errno: Errno::EINVAL as i32 };
        for bit in 3..32 {
            t.vcpu.kvm_run().kvm_valid_regs = ALL | 1 << bit;
            let exit = t.vcpu.run_once()?;
            check_eq!("an unknown set in kvm_valid_regs is EINVAL", exit, refused);
            t.vcpu.kvm_run().kvm_valid_regs = 0;
            t.vcpu.kvm_run().kvm_dirty_regs = 1 << bit;
            let exit = t.vcpu.run_once()?;
            check_eq!("an unknown set in kvm_dirty_regs is EINVAL", exit, refused);
            t.vcpu.kvm_run().kvm_dirty_regs = 0;
        }
        let runs = t.vm.shared(shared_static!(RUNS)).load(SeqCst);
        check_eq!("the guest has not run after a refused set", runs, 0);
        run_to_stop(&mut t.vcpu, ALL)?;
        let runs = t.vm.shared(shared_static!(RUNS)).load(SeqCst);
        check_eq!("the guest runs with known sets", runs, 1);
        Ok(())
    }

    /// Both fields have 64 bits, and none of the high half means anything.
    #[kvm_test(stops)]
    fn unknown_sets_in_the_high_half_are_refused(t: &mut OneVcpu) -> TestResult {
        let refused = Exit::RunFailed { errno: Errno::EINVAL as i32 };
        // A KVM that takes the bit comes back with EINTR instead.
        t.vcpu.set_immediate_exit(true);
        for bit in 32..64 {
            t.vcpu.kvm_run().kvm_valid_regs = 1 << bit;
            let exit = t.vcpu.run_once()?;
            check_eq!("a high bit in kvm_valid_regs is EINVAL", exit, refused);
            t.vcpu.kvm_run().kvm_valid_regs = 0;
            t.vcpu.kvm_run().kvm_dirty_regs = 1 << bit;
            let exit = t.vcpu.run_once()?;
            check_eq!("a high bit in kvm_dirty_regs is EINVAL", exit, refused);
            t.vcpu.kvm_run().kvm_dirty_regs = 0;
        }
        Ok(())
    }

    /// Sets named in `kvm_valid_regs` are in `kvm_run` after KVM_RUN, and only those.
    #[kvm_test(stops)]
    fn valid_sets_are_filled(t: &mut OneVcpu) -> TestResult {
        let sync = t.vcpu.fd_mut().sync_regs_mut();
        sync.regs.rax = u64::MAX;
        sync.sregs.cr2 = u64::MAX;
        sync.events.sipi_vector = u32::MAX;
        run_to_stop(&mut t.vcpu, 0)?;
        let sync = t.vcpu.fd().sync_regs();
        check_eq!(
            "REGS that are not named in kvm_valid_regs are left alone",
            sync.regs.rax,
            u64::MAX
        );
        check_eq!(
            "SREGS that are not named in kvm_valid_regs are left alone",
            sync.sregs.cr2,
            u64::MAX
        );
        check_eq!(
            "EVENTS that are not named in kvm_valid_regs are left alone",
            sync.events.sipi_vector,
            u32::MAX
        );

        t.vcpu.kvm_run().kvm_valid_regs = KVM_SYNC_X86_REGS.into();
        t.vcpu.complete_exit()?;
        let sync = t.vcpu.fd().sync_regs();
        check_eq!(
            "a named set is filled, even by a KVM_RUN that EINTR ends",
            sync.regs.rax,
            u64::from(GUEST_VALUE)
        );
        check_eq!("a set that is not named is left alone", sync.sregs.cr2, u64::MAX);

        t.vcpu.kvm_run().kvm_valid_regs = ALL;
        t.vcpu.complete_exit()?;
        let sync = t.vcpu.fd().sync_regs();
        let regs = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        let sregs = t.vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        let events = t.vcpu.fd().get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS")?;
        check_eq!("REGS are what KVM_GET_REGS gives", sync.regs, regs);
        check_eq!("SREGS are what KVM_GET_SREGS gives", sync.sregs, sregs);
        check_eq!("EVENTS are what KVM_GET_VCPU_EVENTS gives", sync.events, events);
        t.vcpu.run_until_sync(1)?;
        t.vcpu.run_until_done()
    }

    /// Sets named in `kvm_dirty_regs` are loaded before the guest runs, and KVM clears the name.
    #[kvm_test(stops)]
    fn dirty_sets_are_loaded(t: &mut OneVcpu) -> TestResult {
        run_to_stop(&mut t.vcpu, ALL)?;
        t.vcpu.fd_mut().sync_regs_mut().sregs.cr2 = CR2_VALUE;
        t.vcpu.kvm_run().kvm_dirty_regs = KVM_SYNC_X86_EVENTS.into();
        t.vcpu.kvm_run().kvm_valid_regs = 0;
        t.vcpu.complete_exit()?;
        let loaded = t.vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?.cr2 == CR2_VALUE;
        check!("dirty EVENTS load no SREGS", !loaded);
        let sync = t.vcpu.fd_mut().sync_regs_mut();
        sync.regs.r15 = !sync.regs.r15;
        sync.sregs.cr2 = CR2_VALUE;
        let exception = &mut sync.events.exception;
        (exception.injected, exception.nr) = (1, vector::GP);
        (exception.has_error_code, exception.error_code) = (1, ERROR_CODE);
        let cr2 = || -> TestResult<u64> { Ok(t.vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?.cr2) };
        check!("a set that is not named dirty is not loaded", cr2()? != CR2_VALUE);

        t.vcpu.kvm_run().kvm_dirty_regs = KVM_SYNC_X86_REGS.into();
        t.vcpu.kvm_run().kvm_valid_regs = 0;
        let want = t.vcpu.fd().sync_regs().regs;
        t.vcpu.complete_exit()?;
        let regs = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        check_eq!("a set that is named dirty is loaded", regs, want);
        check_eq!("KVM clears the name of a loaded set", t.vcpu.kvm_run().kvm_dirty_regs, 0);
        t.vcpu.fd_mut().sync_regs_mut().regs.r15 = !want.r15;
        t.vcpu.fd().set_regs(&t.vcpu.fd().sync_regs().regs).ioctl("KVM_SET_REGS")?;

        t.vcpu.kvm_run().kvm_dirty_regs = (KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS).into();
        let [cr2, code, ..] = t.vcpu.run_until_sync(1)?;
        check_eq!("the guest sees the CR2 of dirty SREGS", cr2, CR2_VALUE);
        check_eq!("the guest takes the #GP of dirty EVENTS", code, u64::from(ERROR_CODE));
        check_eq!("KVM clears the names of both loaded sets", t.vcpu.kvm_run().kvm_dirty_regs, 0);
        t.vcpu.run_until_done()
    }

    /// What KVM_SET_SREGS refuses is refused in `kvm_run` too.
    #[kvm_test(stops)]
    fn impossible_dirty_sets_are_refused(t: &mut OneVcpu) -> TestResult {
        run_to_stop(&mut t.vcpu, ALL)?;
        let before = t.vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        let refused = Exit::RunFailed { errno: Errno::EINVAL as i32 };
        t.vcpu.fd_mut().sync_regs_mut().sregs.cr4 |= 1 << 63;
        t.vcpu.kvm_run().kvm_dirty_regs = KVM_SYNC_X86_SREGS.into();
        check_eq!("a reserved bit of CR4 in dirty SREGS is EINVAL", t.vcpu.run_once()?, refused);
        t.vcpu.fd_mut().sync_regs_mut().events.flags = 1 << 31;
        t.vcpu.kvm_run().kvm_dirty_regs = KVM_SYNC_X86_EVENTS.into();
        check_eq!("an unknown flag in dirty EVENTS is EINVAL", t.vcpu.run_once()?, refused);
        let after = t.vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        check_eq!("refused dirty sets leave the state", after, before);
        let runs = t.vm.shared(shared_static!(RUNS)).load(SeqCst);
        check_eq!("the guest has not run on with refused sets", runs, 1);
        t.vcpu.kvm_run().kvm_dirty_regs = 0;
        t.vcpu.run_until_sync(1)?;
        t.vcpu.run_until_done()
    }
}
