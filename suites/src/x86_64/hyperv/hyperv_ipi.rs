//! Hyper-V's IPI hypercalls: HvCallSendSyntheticClusterIpi and its extended form interrupt exactly the
//! virtual processors that they name (TLFS, "Interrupts").
use crate::prelude::*;
use hyperv::msr::LINUX;
use hyperv::{
    Control, FAST_WORDS, HvSendIpi, HvSendIpiEx, HvVpSet, Hypercalls, Input, code, status,
};

const HYPERCALL_PAGE: u64 = layout::SCRATCH;
const INPUT_PAGE: u64 = layout::SCRATCH + 0x1000;
const VECTOR: u32 = 0x81;
const READY: u64 = 1;

#[guest]
fn has_an_apic(g: &mut Guest) {
    Apic::enable();
    g.sync(READY, &[]);
}

/// Makes calls for the host: whether fast, control, then words of input; tells the result.
#[guest]
fn sends(g: &mut Guest) {
    Apic::enable();
    let calls = Hypercalls::enable(HYPERCALL_PAGE, LINUX);
    let mut result = [0, 0];
    loop {
        let request = g.sync(READY, &result);
        let mut words = [0; FAST_WORDS];
        words.copy_from_slice(&request[2..2 + FAST_WORDS]);
        let control = Control::from_bits(request[1]);
        let done = if request[0] != 0 {
            calls.fast(control, &words)
        } else {
            poke(INPUT_PAGE, words);
            calls.slow(control, request[2 + FAST_WORDS], 0)
        };
        result = match done {
            Ok(value) => [value, 0],
            Err(trap) => [0, trap.vector.into()],
        };
    }
}

/// An IPI to those in a mask.
fn to_mask(vector: u32, processor_mask: u64) -> Input {
    Input::of(&HvSendIpi { vector, processor_mask, ..HvSendIpi::default() })
}

/// An IPI to those in a set, whose banks follow.
fn to_set(vector: u32, processor_set: HvVpSet) -> Input {
    Input::of(&HvSendIpiEx { vector, processor_set, ..HvSendIpiEx::default() })
}

const SEND_IPI: Control = Control::of(code::SEND_IPI);
const SEND_IPI_EX: Control = Control::of(code::SEND_IPI_EX);

#[guest]
fn sends_without_apic(_: &mut Guest) {
    let calls = Hypercalls::enable(HYPERCALL_PAGE, LINUX);
    // Sets that name nobody: kernels that do not refuse must not look for an APIC that is not there.
    let got = calls.fast(SEND_IPI, to_mask(VECTOR, 1 << 63).words());
    check_eq!(
        "an IPI without an in-kernel APIC is refused",
        got,
        Ok(status::INVALID_HYPERCALL_INPUT)
    );
    let got = calls.fast(SEND_IPI_EX, to_set(VECTOR, HvVpSet::sparse(&[])).words());
    check_eq!(
        "an IPI to a set without an in-kernel APIC is refused",
        got,
        Ok(status::INVALID_HYPERCALL_INPUT)
    );
}

#[host]
mod host {
    use super::*;
    use bindings::{Msrs, kvm_msr_entry};
    use hyperv::cpuid::Features;
    use hyperv::{IPI_HIGH_VECTOR, IPI_LOW_VECTOR};

    kvm_tests! { requires(cap::HYPERV_SEND_IPI) }

    const NR_VCPUS: u32 = 4;
    /// VP indices as KVM gives them, and in two banks of a sparse set.
    const ONE_BANK: [u64; 4] = [0, 1, 2, 3];
    const TWO_BANKS: [u64; 4] = [0, 2, 65, 127];

    /// A sender with its hypercall page, and receivers with their APICs on.
    struct Cluster {
        sender: Vcpu,
        receivers: Vec<Vcpu>,
        indices: [u64; 4],
        fast: bool,
    }

    /// How input is given, and the VP indices.
    #[derive(Clone, Copy)]
    struct Shape {
        fast: bool,
        indices: [u64; 4],
    }

    fn set_vp_index(vcpu: &Vcpu, index: u64) -> TestResult {
        let entry =
            kvm_msr_entry { index: hyperv::msr::VP_INDEX, data: index, ..Default::default() };
        let msrs = Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
        check_eq!(
            "userspace can write the VP index",
            vcpu.fd().set_msrs(&msrs).ioctl("KVM_SET_MSRS")?,
            1
        );
        Ok(())
    }

    impl Cluster {
        fn new(vm: &mut Vm, shape: Shape) -> TestResult<Self> {
            vm.offer_hyperv()?;
            let features = vm.hyperv_features()?;
            let xmm = features.contains(Features::XMM_REGISTERS_FOR_FAST_HYPERCALL_AVAILABLE);
            require!(!shape.fast || xmm, "HV_X64_HYPERCALL_XMM_INPUT_AVAILABLE");
            let mut sender = vm.add_vcpu(0, guest_fn!(sends))?;
            let mut receivers = Vec::new();
            for vcpu in 1..NR_VCPUS {
                let mut receiver = vm.add_vcpu(vcpu, guest_fn!(has_an_apic))?;
                set_vp_index(&receiver, shape.indices[vcpu as usize])?;
                receiver.run_until_sync(READY)?;
                receivers.push(receiver);
            }
            sender.run_until_sync(READY)?;
            Ok(Self { sender, receivers, indices: shape.indices, fast: shape.fast })
        }

        /// Makes a call: the result, or the vector of a fault.
        fn call(&mut self, control: Control, input: &Input) -> TestResult<Result<u64, u64>> {
            self.call_at(control, input, INPUT_PAGE)
        }

        fn call_at(
            &mut self,
            control: Control,
            input: &Input,
            gpa: u64,
        ) -> TestResult<Result<u64, u64>> {
            let mut request = [0; 3 + FAST_WORDS];
            (request[0], request[1]) = (self.fast.into(), control.into_bits());
            request[2..2 + FAST_WORDS].copy_from_slice(input.words());
            request[2 + FAST_WORDS] = gpa;
            self.sender.answer(&request);
            let [result, fault, ..] = self.sender.run_until_sync(READY)?;
            Ok(if fault == 0 { Ok(result) } else { Err(fault) })
        }

        /// Which vCPUs have `vector` pending, as a mask; takes it from them.
        fn interrupted(&self, vector: u32) -> TestResult<u32> {
            let mut mask = 0;
            let all = std::iter::once(&self.sender).chain(&self.receivers);
            for (bit, vcpu) in all.enumerate() {
                mask |= u32::from(vcpu.drop_pending(vector as u8)?) << bit;
            }
            Ok(mask)
        }

        /// The banks that name the vCPUs in `mask`.
        fn banks(&self, mask: u32) -> [u64; 2] {
            let mut banks = [0; 2];
            for vcpu in (0..NR_VCPUS).filter(|vcpu| mask >> vcpu & 1 != 0) {
                let index = self.indices[vcpu as usize];
                banks[index as usize / 64] |= 1 << (index % 64);
            }
            banks
        }
    }

    const SHAPES: [Shape; 4] = [
        Shape { fast: false, indices: ONE_BANK },
        Shape { fast: false, indices: TWO_BANKS },
        Shape { fast: true, indices: ONE_BANK },
        Shape { fast: true, indices: TWO_BANKS },
    ];

    /// Each set of vCPUs is interrupted, and no other vCPU, by mask and by sparse set.
    #[kvm_test(irqchip, params = [
    slow: SHAPES[0], slow_two_banks: SHAPES[1], fast: SHAPES[2], fast_two_banks: SHAPES[3],
])]
    fn exactly_the_named_vcpus_are_interrupted(t: &mut OneVm, shape: Shape) -> TestResult {
        let mut cluster = Cluster::new(&mut t.vm, shape)?;
        const DONE: Result<u64, u64> = Ok(status::SUCCESS);
        for mask in 0..1 << NR_VCPUS {
            let banks = cluster.banks(mask);
            if banks[1] == 0 {
                let got = cluster.call(SEND_IPI, &to_mask(VECTOR, banks[0]))?;
                check_eq!("an IPI by the mask {mask:#b} succeeds", got, DONE);
                let who = cluster.interrupted(VECTOR)?;
                check_eq!("an IPI by mask interrupts exactly {mask:#b}", who, mask);
            }
            let set = HvVpSet::sparse(&banks);
            let used = banks.iter().filter(|bank| **bank != 0);
            let input = used.fold(to_set(VECTOR, set), |input, bank| input.with(bank));
            let got =
                cluster.call(SEND_IPI_EX.with_variable_header_size(set.nr_banks()), &input)?;
            check_eq!("an IPI by a sparse set of {mask:#b} succeeds", got, DONE);
            let who = cluster.interrupted(VECTOR)?;
            check_eq!("an IPI by sparse set interrupts exactly {mask:#b}", who, mask);
        }
        let got = cluster.call(SEND_IPI_EX, &to_set(VECTOR, HvVpSet::ALL))?;
        check_eq!("an IPI to the set of all succeeds", got, DONE);
        let all = (1 << NR_VCPUS) - 1;
        check_eq!(
            "an IPI to the set of all interrupts every vCPU",
            cluster.interrupted(VECTOR)?,
            all
        );
        let nobody = 1 << 63;
        let got = cluster.call(SEND_IPI, &to_mask(VECTOR, nobody))?;
        check_eq!("an IPI to an absent VP index succeeds", got, DONE);
        let far = HvVpSet { format: HvVpSet::SPARSE_4K, valid_bank_mask: 1 << 63 };
        let got = cluster.call(
            SEND_IPI_EX.with_variable_header_size(far.nr_banks()),
            &to_set(VECTOR, far).with(&u64::MAX),
        )?;
        check_eq!("an IPI to an absent bank succeeds", got, DONE);
        check_eq!("an IPI to an absent bank interrupts nobody", cluster.interrupted(VECTOR)?, 0);
        Ok(())
    }

    /// The vectors that exist for interrupts are sent, others refused; so is input of the wrong shape.
    #[kvm_test(irqchip, params = [slow: SHAPES[0], fast: SHAPES[2]])]
    fn malformed_ipis_are_refused(t: &mut OneVm, shape: Shape) -> TestResult {
        let mut cluster = Cluster::new(&mut t.vm, shape)?;
        const INVALID: Result<u64, u64> = Ok(status::INVALID_HYPERCALL_INPUT);
        const DONE: Result<u64, u64> = Ok(status::SUCCESS);
        let everyone = (1 << NR_VCPUS) - 1;
        for (vector, want) in [
            (0, INVALID),
            (2, INVALID),
            (IPI_LOW_VECTOR - 1, INVALID),
            (IPI_LOW_VECTOR, DONE),
            (0x20, DONE),
            (IPI_HIGH_VECTOR, DONE),
            (IPI_HIGH_VECTOR + 1, INVALID),
            (u32::MAX, INVALID),
        ] {
            let got = cluster.call(SEND_IPI, &to_mask(vector, everyone))?;
            check_eq!("the status of an IPI with vector {vector:#x} is right", got, want);
            let ex = cluster.call(SEND_IPI_EX, &to_set(vector, HvVpSet::ALL))?;
            check_eq!("the status of an IPI to all with vector {vector:#x} is right", ex, want);
            let who = u64::from(cluster.interrupted(vector)?);
            let expected = if want == DONE { everyone } else { 0 };
            check_eq!(
                "an IPI with vector {vector:#x} interrupts everyone or nobody",
                who,
                expected
            );
        }
        let mask = to_mask(VECTOR, everyone);
        let sparse = to_set(VECTOR, HvVpSet::sparse(&[everyone])).with(&everyone);
        let to_sparse = SEND_IPI_EX.with_variable_header_size(1);
        let with_rep_count: fn(Control) -> Control = |control| control.with_rep_count(1);
        let with_rep_start: fn(Control) -> Control = |control| control.with_rep_start_index(1);
        for (what, change) in [("rep count", with_rep_count), ("rep start", with_rep_start)] {
            let got = cluster.call(change(SEND_IPI), &mask)?;
            check_eq!("an IPI by mask with {what} is refused", got, INVALID);
            let got = cluster.call(change(to_sparse), &sparse)?;
            check_eq!("an IPI by set with {what} is refused", got, INVALID);
        }
        check_eq!(
            "an IPI by mask with a variable header is refused",
            cluster.call(SEND_IPI.with_variable_header_size(1), &mask)?,
            INVALID
        );
        let got = cluster.call(SEND_IPI_EX, &sparse)?;
        check_eq!("an IPI whose header is shorter than the set is refused", got, INVALID);
        let got = cluster.call(SEND_IPI_EX.with_variable_header_size(2), &sparse)?;
        check_eq!("an IPI whose header is longer than the set is refused", got, INVALID);
        for bit in Control::RESERVED {
            let got = cluster.call(SEND_IPI.with_bit(bit), &mask)?;
            check_eq!("an IPI with reserved bit {bit} is refused", got, INVALID);
        }
        if shape.fast {
            let input = HvSendIpi { vector: VECTOR, reserved: 1, processor_mask: everyone };
            let got = cluster.call(SEND_IPI, &Input::of(&input))?;
            check_eq!("an IPI with reserved bits beside the vector is refused", got, INVALID);
        } else {
            let got = cluster.call_at(SEND_IPI, &mask, layout::FREE)?;
            check_eq!("an IPI with input outside memory is refused", got, INVALID);
            let got = cluster.call_at(to_sparse, &sparse, layout::FREE)?;
            check_eq!("an IPI with a set outside memory is refused", got, INVALID);
        }
        check_eq!("a refused IPI interrupts nobody", cluster.interrupted(VECTOR)?, 0);
        let got = cluster.call(SEND_IPI, &mask)?;
        check_eq!("a valid IPI after refused ones succeeds", got, DONE);
        check_eq!(
            "a valid IPI after refused ones interrupts everyone",
            u64::from(cluster.interrupted(VECTOR)?),
            everyone
        );
        Ok(())
    }

    /// Without an in-kernel APIC there is nobody to interrupt: the call is refused.
    #[kvm_test]
    fn without_an_apic_ipis_are_refused(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(sends_without_apic))?;
        vcpu.run_until_done()
    }
}
