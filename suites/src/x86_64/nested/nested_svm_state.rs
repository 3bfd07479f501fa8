//! KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE on SVM (api.rst 4.114, 4.115): what they refuse, what they
//! give back, and a vCPU that goes on in another VM while its guest runs.
use crate::prelude::*;
use defs::x86::vmcb::{exit, intercept};

const VMMCALL: u64 = exit::intercepted(intercept::VMMCALL);
const IN_L1: u64 = 1;
const IN_L2: u64 = 2;

fn syncs(g: &mut Guest) {
    let answer = g.sync(IN_L2, &[g.level().into()]);
    check_eq!("level 2 gets the host's answer behind its sync", answer[0], 30);
    check_eq!("level 2 calls its hypervisor behind its sync", svm::vmmcall(5), 6);
}

#[guest]
fn runs_a_guest(g: &mut Guest) {
    g.sync(IN_L1, &[]);
    let mut svm = Svm::new();
    if g.arg(0) != 0 {
        svm.use_nested_paging();
    }
    g.sync(IN_L1, &[svm.vmcb_address()]);
    let exit = svm.enter(syncs);
    check_eq!("level 1 goes on at the call of level 2", exit.code, VMMCALL);
    check_eq!("level 1 sees what level 2 called with", svm.vmcb().save.rax, 5);
    svm.skip();
    svm.vmcb().save.rax = 6;
    let exit = svm.resume();
    check!("level 2 returns behind its call", svm.has_returned(&exit), "{exit:x?}");
    g.sync(IN_L1, &[]);
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;
    use bindings::{
        KVM_STATE_NESTED_EVMCS, KVM_STATE_NESTED_FORMAT_SVM, KVM_STATE_NESTED_FORMAT_VMX,
        KVM_STATE_NESTED_GIF_SET, KVM_STATE_NESTED_GUEST_MODE, KVM_STATE_NESTED_RUN_PENDING,
        KVM_STATE_NESTED_SVM_VMCB_SIZE,
    };
    use defs::x86::vmcb::{Control, NP_ENABLE, Vmcb};
    use request::x86::{KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE};

    kvm_tests! { requires(cpu::SVM, cap::NESTED_STATE) }

    /// What stands before a VMCB in the state.
    const HEADER: usize = 128;
    const SIZE: usize = HEADER + KVM_STATE_NESTED_SVM_VMCB_SIZE as usize;
    const GUEST_MODE: u16 = KVM_STATE_NESTED_GUEST_MODE as u16;
    const GIF: u16 = KVM_STATE_NESTED_GIF_SET as u16;
    const PENDING: u16 = KVM_STATE_NESTED_RUN_PENDING as u16;

    /// A nested state as bytes: a header, and a VMCB of the guest's controls and its hypervisor's registers.
    #[derive(Clone)]
    struct State(Vec<u8>);

    impl State {
        /// Without a guest.
        fn new(flags: u16) -> Self {
            let mut state = Self(vec![0; SIZE]);
            state.set_flags(flags);
            state.put(2, &(KVM_STATE_NESTED_FORMAT_SVM as u16).to_ne_bytes());
            state.put(4, &(SIZE as u32).to_ne_bytes());
            state
        }

        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn word(&self, at: usize) -> u64 {
            u64::from_ne_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
        }

        fn flags(&self) -> u16 {
            u16::from_ne_bytes(self.0[..2].try_into().expect("two bytes"))
        }

        fn set_flags(&mut self, flags: u16) {
            self.put(0, &flags.to_ne_bytes());
        }

        fn size(&self) -> u32 {
            u32::from_ne_bytes(self.0[4..8].try_into().expect("four bytes"))
        }

        /// Changes eight bytes of the VMCB.
        fn with_word(&self, at: usize, change: impl FnOnce(u64) -> u64) -> Self {
            let mut changed = self.clone();
            changed.put(HEADER + at, &change(self.word(HEADER + at)).to_ne_bytes());
            changed
        }

        fn with_header(&self, at: usize, bytes: &[u8]) -> Self {
            let mut changed = self.clone();
            changed.put(at, bytes);
            changed
        }

        fn get(vcpu: &Vcpu) -> TestResult<Self> {
            let mut state = Self::new(0);
            vcpu.raw(KVM_GET_NESTED_STATE, &mut state.0).ioctl("KVM_GET_NESTED_STATE")?;
            Ok(state)
        }

        fn set(&self, vcpu: &Vcpu) -> Result<(), Errno> {
            vcpu.raw(KVM_SET_NESTED_STATE, &mut self.0.clone()).map(drop)
        }
    }

    /// Whether a vCPU runs a guest of its own.
    pub fn is_in_guest_mode(vcpu: &Vcpu) -> TestResult<bool> {
        Ok(State::get(vcpu)?.flags() & GUEST_MODE != 0)
    }

    /// A field of the VMCB, by its offset.
    const fn control(offset: usize) -> usize {
        std::mem::offset_of!(Vmcb, control) + offset
    }

    const fn save(offset: usize) -> usize {
        std::mem::offset_of!(Vmcb, save) + offset
    }

    /// Each refusal without a guest, and what is taken.
    #[kvm_test(runs_a_guest)]
    fn headers_are_checked(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(IN_L1)?;
        let state = State::get(vcpu)?;
        check_eq!(
            "the state of a vCPU without a guest is its header",
            state.size() as usize,
            HEADER
        );
        check_eq!("GIF is set in the state of a new vCPU", state.flags(), GIF);
        let off = State::new(GIF);
        check_eq!("a state without a guest is taken without EFER.SVME", off.set(vcpu), Ok(()));
        for (name, flags) in
            [("guest mode", GUEST_MODE | GIF), ("a pending VMRUN", PENDING | GIF), ("no GIF", 0)]
        {
            let refused = State::new(flags).set(vcpu);
            check_eq!(
                "a state with {name} is EINVAL without EFER.SVME",
                refused,
                Err(Errno::EINVAL)
            );
        }
        let [vmcb, ..] = vcpu.run_until_sync(IN_L1)?;
        check_eq!("a state without a guest is taken with EFER.SVME", off.set(vcpu), Ok(()));
        check_eq!("a state without GIF is taken with EFER.SVME", State::new(0).set(vcpu), Ok(()));
        check_eq!("GIF of the state is read back clear", State::get(vcpu)?.flags(), 0);
        check_eq!("GIF of the state is taken again", off.set(vcpu), Ok(()));
        check_eq!("GIF of the state is read back set", State::get(vcpu)?.flags(), GIF);
        for bit in (0..16).filter(|bit| !(GUEST_MODE | GIF | PENDING) >> bit & 1 == 1) {
            let refused = State::new(GIF | 1 << bit).set(vcpu);
            check_eq!("a state with unknown flag {bit} is EINVAL", refused, Err(Errno::EINVAL));
        }
        check!(
            "the enlightened VMCS is among the unknown flags",
            KVM_STATE_NESTED_EVMCS > PENDING.into()
        );
        for format in [KVM_STATE_NESTED_FORMAT_VMX as u16, 2, u16::MAX] {
            let refused = off.with_header(2, &format.to_ne_bytes()).set(vcpu);
            check_eq!("a state of format {format} is EINVAL", refused, Err(Errno::EINVAL));
        }
        for size in [0, 7, HEADER as u32 - 1] {
            let refused = off.with_header(4, &size.to_ne_bytes()).set(vcpu);
            check_eq!("a state of {size} bytes is EINVAL", refused, Err(Errno::EINVAL));
        }
        let short = off.with_header(4, &(HEADER as u32).to_ne_bytes()).set(vcpu);
        check_eq!("a state of a header is taken without a guest", short, Ok(()));
        let guest = State::new(GUEST_MODE | GIF).with_header(8, &vmcb.to_ne_bytes());
        check_eq!(
            "a guest whose VMCB is all zeroes is EINVAL",
            guest.set(vcpu),
            Err(Errno::EINVAL)
        );
        let flags = State::get(vcpu)?.flags();
        check_eq!("a refused state leaves the vCPU without a guest", flags, GIF);
        let size = State::new(0).with_header(4, &(HEADER as u32 - 8).to_ne_bytes());
        let got = vcpu.raw(KVM_GET_NESTED_STATE, &mut size.0.clone());
        check_eq!("a buffer too short for the header is E2BIG", got.map(drop), Err(Errno::E2BIG));
        vcpu.run_until_sync(IN_L2)?;
        vcpu.answer(&[30]);
        vcpu.run_until_sync(IN_L1)?;
        vcpu.run_until_done()
    }

    /// Each refusal of a guest's state, one field wrong at a time; the vCPU goes on where it was.
    #[kvm_test(runs_a_guest, params = [shadow: 0, nested: 1])]
    fn guests_are_checked(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        use std::mem::offset_of;
        t.vcpu.set_args(&[nested_paging]);
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(IN_L1)?;
        let [vmcb, ..] = vcpu.run_until_sync(IN_L1)?;
        vcpu.run_until_sync(IN_L2)?;
        let state = State::get(vcpu)?;
        check_eq!("the state of a vCPU with a guest has a VMCB", state.size() as usize, SIZE);
        check_eq!("a vCPU with a guest is in guest mode", state.flags(), GUEST_MODE | GIF);
        check_eq!("the state has the address of the guest's VMCB", state.word(8), vmcb);
        let asid = state.word(HEADER + control(offset_of!(Control, guest_asid))) as u32;
        check_eq!("the state has the guest's address space", asid, 1);
        let np = state.word(HEADER + control(offset_of!(Control, nested_paging)));
        check_eq!("the state has the guest's nested paging", np & NP_ENABLE, nested_paging);
        check_eq!("a vCPU takes its own state", state.set(vcpu), Ok(()));
        let again = State::get(vcpu)?;
        check!("a vCPU's own state is read back as it was", again.0 == state.0);

        // SAVE area: EFER, CR4, CR3, CR0, DR7, DR6, RFLAGS of the hypervisor.
        use defs::x86::vmcb::SaveArea;
        let rows: [(&str, State); 17] = [
            ("no intercept of VMRUN", state.with_word(control(0x10), |v| v & !1)),
            ("address space 0", state.with_word(control(offset_of!(Control, guest_asid)), |_| 0)),
            ("an MSR map that is no address", state.with_word(control(0x48), |_| 1 << 60)),
            ("a port map that is no address", state.with_word(control(0x40), |_| 1 << 60)),
            ("a VMCB at no page", state.with_header(8, &(vmcb + 8).to_ne_bytes())),
            ("a VMCB that is no address", state.with_header(8, &(1_u64 << 60).to_ne_bytes())),
            ("a size without a VMCB", state.with_header(4, &(HEADER as u32).to_ne_bytes())),
            (
                "a hypervisor without EFER.SVME",
                state.with_word(save(offset_of!(SaveArea, efer)), |v| v & !Efer::SVME.bits()),
            ),
            (
                "a reserved bit of the hypervisor's EFER",
                state.with_word(save(offset_of!(SaveArea, efer)), |v| v | 1 << 7),
            ),
            (
                "a hypervisor without paging",
                state.with_word(save(offset_of!(SaveArea, cr0)), |v| v & !Cr0::PG.bits()),
            ),
            (
                "a hypervisor without protection",
                state.with_word(save(offset_of!(SaveArea, cr0)), |v| v & !Cr0::PE.bits()),
            ),
            (
                "CR0.NW without CR0.CD of the hypervisor",
                state.with_word(save(offset_of!(SaveArea, cr0)), |v| v | Cr0::NW.bits()),
            ),
            (
                "bit 32 of the hypervisor's CR0",
                state.with_word(save(offset_of!(SaveArea, cr0)), |v| v | 1 << 32),
            ),
            (
                "a reserved bit of the hypervisor's CR4",
                state.with_word(save(offset_of!(SaveArea, cr4)), |v| v | 1 << 15),
            ),
            (
                "a hypervisor in long mode without CR4.PAE",
                state.with_word(save(offset_of!(SaveArea, cr4)), |v| v & !Cr4::PAE.bits()),
            ),
            (
                "a hypervisor in virtual-8086 mode",
                state.with_word(save(offset_of!(SaveArea, rflags)), |v| v | 1 << 17),
            ),
            (
                "bit 32 of the hypervisor's DR6",
                state.with_word(save(offset_of!(SaveArea, dr6)), |v| v | 1 << 32),
            ),
        ];
        for (name, wrong) in &rows {
            check_eq!("a guest's state with {name} is EINVAL", wrong.set(vcpu), Err(Errno::EINVAL));
        }
        if nested_paging != 0 {
            let wrong = state.with_word(control(offset_of!(Control, n_cr3)), |_| 1 << 60);
            let refused = wrong.set(vcpu);
            check_eq!(
                "a guest's state with a nested CR3 that is no address is EINVAL",
                refused,
                Err(Errno::EINVAL)
            );
        }
        check!("refused states leave the vCPU as it was", State::get(vcpu)?.0 == state.0);
        vcpu.answer(&[30]);
        vcpu.run_until_sync(IN_L1)?;
        let flags = State::get(vcpu)?.flags();
        check_eq!("a vCPU whose guest has ended is not in guest mode", flags & GUEST_MODE, 0);
        vcpu.run_until_done()
    }

    /// A vCPU that leaves guest mode by its state goes on as what its registers say.
    #[kvm_test(runs_a_guest, params = [shadow: 0, nested: 1])]
    fn guest_mode_is_left_and_entered_by_state(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(IN_L1)?;
        vcpu.run_until_sync(IN_L1)?;
        vcpu.run_until_sync(IN_L2)?;
        let state = State::get(vcpu)?;
        let regs = vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        let sregs = vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        check_eq!(
            "a state without a guest is taken in guest mode",
            State::new(GIF).set(vcpu),
            Ok(())
        );
        check_eq!("guest mode is left by a state without a guest", State::get(vcpu)?.flags(), GIF);
        vcpu.fd().set_sregs(&sregs).ioctl("KVM_SET_SREGS")?;
        vcpu.fd().set_regs(&regs).ioctl("KVM_SET_REGS")?;
        check_eq!("guest mode is entered by the state that was saved", state.set(vcpu), Ok(()));
        let again = State::get(vcpu)?;
        check!("the state is read back as it was saved", again.0 == state.0);
        check_eq!(
            "the guest's registers outlast its hypervisor's return",
            vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?,
            regs
        );
        vcpu.answer(&[30]);
        vcpu.run_until_sync(IN_L1)?;
        vcpu.run_until_done()
    }

    /// A guest whose MSR map is where no RAM is: the entry fails with an exit that says so.
    #[kvm_test(runs_a_guest)]
    fn pages_that_are_missing_are_an_exit(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(IN_L1)?;
        vcpu.run_until_sync(IN_L1)?;
        vcpu.run_until_sync(IN_L2)?;
        let state = State::get(vcpu)?;
        const MSR_PROT: u64 = 1 << intercept::MSR_PROT;
        // Intercept words 3 and 4 are side by side.
        let wrong =
            state.with_word(control(0xc), |v| v | MSR_PROT).with_word(control(0x48), |_| 1 << 38);
        check_eq!("an MSR map that is an address is taken", wrong.set(vcpu), Ok(()));
        vcpu.answer(&[30]);
        let Next::Exit(stop) = vcpu.run_until_next()? else {
            fail!("a guest whose MSR map is missing does not run");
        };
        let exit = stop.exit();
        check!(
            "a guest whose MSR map is missing is an internal error",
            matches!(exit, Exit::InternalError(_)),
            "{exit:?}"
        );
        check_eq!(
            "a state without a guest is taken behind the error",
            State::new(GIF).set(vcpu),
            Ok(())
        );
        Ok(())
    }
}
