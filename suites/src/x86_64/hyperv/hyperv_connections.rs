//! Hyper-V's messages and events from a guest: HvCallPostMessage and HvCallSignalEvent exit to userspace
//! (api.rst 5, KVM_EXIT_HYPERV_HCALL), but for events of connections with an eventfd (api.rst 4.112,
//! KVM_HYPERV_EVENTFD).
use crate::prelude::*;
use hyperv::msr::LINUX;
use hyperv::{Control, FAST_WORDS, Hypercalls};

const HYPERCALL_PAGE: u64 = layout::SCRATCH;
const INPUT_PAGE: u64 = layout::SCRATCH + 0x1000;
const READY: u64 = 1;
/// Connection IDs have 24 bits.
const LAST_CONNECTION: u32 = 0xff_ffff;

/// Makes calls for the host: control, first and second input register, and the word at
/// [`INPUT_PAGE`]; tells the result.
#[guest]
fn calls(g: &mut Guest) {
    let page = Hypercalls::enable(HYPERCALL_PAGE, LINUX);
    let mut result = [0, 0];
    loop {
        let [control, rdx, r8, word, ..] = g.sync(READY, &result);
        poke(INPUT_PAGE, word);
        let mut words = [0; FAST_WORDS];
        (words[0], words[1]) = (rdx, r8);
        let control = Control::from_bits(control);
        let done =
            if control.fast() { page.fast(control, &words) } else { page.slow(control, rdx, r8) };
        result = match done {
            Ok(value) => [value, 0],
            Err(trap) => [0, trap.vector.into()],
        };
    }
}

#[host]
mod host {
    use super::*;
    use hyperv::{HvSignalEvent, code, status};
    use {
        bindings::{KVM_CAP_HYPERV_SYNIC2, KVM_EXIT_HYPERV},
        request::iow,
        std::os::fd::AsRawFd,
        vm::arch::hyperv::HypervExit,
    };

    kvm_tests! { irqchip, requires(cap::HYPERV_SYNIC2, cap::HYPERV_CPUID) }

    /// With `struct kvm_hyperv_eventfd`.
    const KVM_HYPERV_EVENTFD: u64 = iow::<[u8; 24]>(0xbd);
    const DEASSIGN: u32 = 1;

    /// KVM_HYPERV_EVENTFD.
    fn eventfd(vm: &Vm, connection: u32, fd: i32, flags: u32) -> Result<(), Errno> {
        let mut bytes = [0; 24];
        bytes[0..4].copy_from_slice(&connection.to_ne_bytes());
        bytes[4..8].copy_from_slice(&fd.to_ne_bytes());
        bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
        vm.raw(KVM_HYPERV_EVENTFD, &mut bytes).map(drop)
    }

    /// Input of a call.
    #[derive(Clone, Copy, Debug, Default)]
    struct Input {
        control: Control,
        rdx: u64,
        r8: u64,
        /// What memory holds at [`INPUT_PAGE`].
        word: u64,
    }

    struct Caller(Vcpu);

    impl Caller {
        fn new(vm: &mut Vm, synic: bool) -> TestResult<Self> {
            vm.offer_hyperv()?;
            let mut vcpu = vm.add_vcpu(0, guest_fn!(calls))?;
            if synic {
                vcpu.enable_cap(KVM_CAP_HYPERV_SYNIC2, [0; 4]).ioctl("KVM_ENABLE_CAP(SYNIC2)")?;
            }
            vcpu.run_until_sync(READY)?;
            Ok(Self(vcpu))
        }

        /// A call that KVM ends: its result, or the vector of a fault as an error.
        fn call(&mut self, input: Input) -> TestResult<Result<u64, u64>> {
            self.0.answer(&[input.control.into_bits(), input.rdx, input.r8, input.word]);
            self.result()
        }

        fn result(&mut self) -> TestResult<Result<u64, u64>> {
            match self.0.run_until_next()? {
                Next::Sync([_, result, 0, ..]) => Ok(Ok(result)),
                Next::Sync([_, _, fault, ..]) => Ok(Err(fault)),
                // Told as a result that no call has, so that a check can name it.
                Next::Exit(stop) if stop.exit() == Exit::Other(KVM_EXIT_HYPERV) => {
                    Ok(Err(u64::MAX))
                }
                other => fail!("{other:?} instead of a hypercall's result"),
            }
        }

        /// A call that userspace ends with `answer`: what it was told, and what the guest got.
        fn exits(
            &mut self,
            input: Input,
            answer: u64,
        ) -> TestResult<(HypervExit, Result<u64, u64>)> {
            self.0.answer(&[input.control.into_bits(), input.rdx, input.r8, input.word]);
            let told = self.0.run_until_hyperv()?;
            self.0.complete_hyperv_hcall(answer);
            Ok((told, self.result()?))
        }
    }

    const POST_MESSAGE: Control = Control::of(code::POST_MESSAGE);
    const SIGNAL_EVENT: Control = Control::of(code::SIGNAL_EVENT);

    fn fast_signal(connection: u64) -> Input {
        Input { control: SIGNAL_EVENT.with_fast(true), rdx: connection, ..Input::default() }
    }

    fn slow_signal(connection: u64) -> Input {
        Input { control: SIGNAL_EVENT, rdx: INPUT_PAGE, r8: 0, word: connection }
    }

    const DONE: Result<u64, u64> = Ok(status::SUCCESS);
    const INVALID: Result<u64, u64> = Ok(status::INVALID_HYPERCALL_INPUT);

    /// A posted message exits with the input value and both input registers, and ends with userspace's
    /// result; malformed ones, and all without a SynIC, end in KVM.
    #[kvm_test]
    fn messages_are_for_userspace(t: &mut OneVm) -> TestResult {
        let mut caller = Caller::new(&mut t.vm, true)?;
        for (fast, answer) in [(false, status::SUCCESS), (true, 0x8765_4321_0000_0011)] {
            let control = POST_MESSAGE.with_fast(fast);
            let input = control.into_bits();
            let (rdx, r8) = (INPUT_PAGE + 0x100, 0x1234_5678_9abc_def0);
            let want = HypervExit::Hcall { input, params: [rdx, r8] };
            let (told, got) = caller.exits(Input { control, rdx, r8, word: 0 }, answer)?;
            check_eq!("userspace gets the input {input:#x} and both registers", told, want);
            check_eq!("the guest gets userspace's result of {input:#x}", got, Ok(answer));
        }
        for control in [
            POST_MESSAGE.with_rep_count(1),
            POST_MESSAGE.with_rep_start_index(1),
            POST_MESSAGE.with_variable_header_size(1),
        ] {
            let change = control.into_bits() ^ POST_MESSAGE.into_bits();
            let got = caller.call(Input { control, rdx: INPUT_PAGE, ..Input::default() })?;
            check_eq!("a message with {change:#x} in its control is refused", got, INVALID);
        }
        Ok(())
    }

    /// Without a SynIC userspace is told of nothing; eventfds work all the same.
    #[kvm_test(requires(cap::HYPERV_EVENTFD), sees(moved: "sets eventfds by the bare ioctl, which no VM remembers"))]
    fn without_a_synic_calls_end_in_kvm(t: &mut OneVm) -> TestResult {
        const CONNECTION: u32 = 3;
        let mut caller = Caller::new(&mut t.vm, false)?;
        let post = Input { control: POST_MESSAGE, rdx: INPUT_PAGE, ..Input::default() };
        check_eq!("a message without a SynIC is refused", caller.call(post)?, INVALID);
        check_eq!(
            "an event without a SynIC is refused",
            caller.call(fast_signal(CONNECTION.into()))?,
            INVALID
        );
        let event = Event::new()?;
        eventfd(&t.vm, CONNECTION, event.as_raw_fd(), 0).ioctl("KVM_HYPERV_EVENTFD")?;
        check_eq!(
            "an event with an eventfd succeeds without a SynIC",
            caller.call(fast_signal(3))?,
            DONE
        );
        check_eq!("an event signals its eventfd without a SynIC", event.take(), Ok(1));
        Ok(())
    }

    /// An event of a connection without an eventfd exits as a message does: with the input registers as
    /// the guest left them.
    #[kvm_test]
    fn unknown_connections_are_for_userspace(t: &mut OneVm) -> TestResult {
        let mut caller = Caller::new(&mut t.vm, true)?;
        const FLAG: u64 = HvSignalEvent::new().with_flag_number(1).into_bits();
        for (connection, answer) in [(0, status::SUCCESS), (7, status::INVALID_PORT_ID), (FLAG, 5)]
        {
            let (told, got) = caller.exits(fast_signal(connection), answer)?;
            let input = SIGNAL_EVENT.with_fast(true).into_bits();
            let want = HypervExit::Hcall { input, params: [connection, 0] };
            check_eq!("userspace gets connection {connection:#x} in a register", told, want);
            check_eq!(
                "the guest gets userspace's result for {connection:#x} in a register",
                got,
                Ok(answer)
            );
            let (told, got) = caller.exits(slow_signal(connection), answer)?;
            let want =
                HypervExit::Hcall { input: SIGNAL_EVENT.into_bits(), params: [INPUT_PAGE, 0] };
            check_eq!("userspace gets the address of connection {connection:#x}", told, want);
            check_eq!(
                "the guest gets userspace's result for {connection:#x} in memory",
                got,
                Ok(answer)
            );
        }
        Ok(())
    }

    /// An event signals the eventfd of exactly its connection, by registers or memory, and userspace is
    /// not told (api.rst 4.112).
    #[kvm_test(requires(cap::HYPERV_EVENTFD), sees(moved: "sets eventfds by the bare ioctl, which no VM remembers"))]
    fn events_signal_their_eventfd(t: &mut OneVm) -> TestResult {
        let mut caller = Caller::new(&mut t.vm, true)?;
        let connections = [0, 1, 0x1_0000, LAST_CONNECTION];
        let mut events = Vec::new();
        for connection in connections {
            let event = Event::new()?;
            eventfd(&t.vm, connection, event.as_raw_fd(), 0).ioctl("KVM_HYPERV_EVENTFD")?;
            events.push(event);
        }
        for (i, connection) in connections.into_iter().enumerate() {
            for input in [fast_signal(connection.into()), slow_signal(connection.into())] {
                check_eq!(
                    "an event of connection {connection:#x} succeeds",
                    caller.call(input)?,
                    DONE
                );
                let counts = events.iter().map(|event| event.take().unwrap_or(0));
                let right = counts.enumerate().all(|(j, count)| count == u64::from(i == j));
                check!("an event of {connection:#x} signals its eventfd alone, once", right);
            }
        }
        let fast = SIGNAL_EVENT.with_fast(true);
        let changed = |control| Input { control, ..Input::default() };
        let misaligned = |by| Input { rdx: INPUT_PAGE + by, ..slow_signal(1) };
        const MISALIGNED: Result<u64, u64> = Ok(status::INVALID_ALIGNMENT);
        for (what, input, want) in [
            ("a rep count", changed(fast.with_rep_count(1)), INVALID),
            ("a rep start", changed(fast.with_rep_start_index(1)), INVALID),
            ("a header", changed(fast.with_variable_header_size(1)), INVALID),
            ("reserved bit 24", fast_signal(1 | 1 << 24), INVALID),
            ("reserved bit 31", fast_signal(1 | 1 << 31), INVALID),
            ("reserved bit 48", fast_signal(1 | 1 << 48), INVALID),
            ("reserved bit 63", slow_signal(1 | 1 << 63), INVALID),
            ("input at byte 1", misaligned(1), MISALIGNED),
            ("input at byte 4", misaligned(4), MISALIGNED),
        ] {
            check_eq!("an event with {what} is refused", caller.call(input)?, want);
        }
        let silent = events.iter().all(|event| event.take() == Err(Errno::EAGAIN));
        check!("a refused event signals no eventfd", silent);
        Ok(())
    }

    /// A connection has one eventfd until it is taken away; KVM holds the eventfd, not the descriptor.
    #[kvm_test(requires(cap::HYPERV_EVENTFD), sees(moved: "sets eventfds by the bare ioctl, which no VM remembers"))]
    fn connections_have_one_eventfd(t: &mut OneVm) -> TestResult {
        const CONNECTION: u32 = 9;
        let mut caller = Caller::new(&mut t.vm, true)?;
        let signal = fast_signal(CONNECTION.into());
        let (event, other) = (Event::new()?, Event::new()?);
        let assign = |fd: i32| eventfd(&t.vm, CONNECTION, fd, 0);
        let deassign = |connection| eventfd(&t.vm, connection, -1, DEASSIGN);
        // Of the same eventfd as `event`, and closed once KVM has it.
        let closed = event.duplicate()?;
        let (fd, other_fd) = (closed.as_raw_fd(), other.as_raw_fd());
        for connection in [LAST_CONNECTION + 1, 1 << 31] {
            let refused = eventfd(&t.vm, connection, fd, 0);
            check_eq!(
                "an eventfd for connection {connection:#x} is EINVAL",
                refused,
                Err(Errno::EINVAL)
            );
            let refused = deassign(connection);
            check_eq!(
                "a deassign of connection {connection:#x} is EINVAL",
                refused,
                Err(Errno::EINVAL)
            );
        }
        for flags in [1 << 1, 1 << 31, DEASSIGN | 1 << 1] {
            let refused = eventfd(&t.vm, CONNECTION, fd, flags);
            check_eq!(
                "flags {flags:#x} of KVM_HYPERV_EVENTFD are EINVAL",
                refused,
                Err(Errno::EINVAL)
            );
        }
        check_eq!("a descriptor of -1 is EBADF", assign(-1), Err(Errno::EBADF));
        check_eq!(
            "a descriptor of no eventfd is EINVAL",
            assign(t.vm.as_raw_fd()),
            Err(Errno::EINVAL)
        );
        check_eq!("deassign before assign is ENOENT", deassign(CONNECTION), Err(Errno::ENOENT));
        check_eq!("the connection is still free after refused calls", assign(fd), Ok(()));
        check_eq!(
            "a second eventfd for a connection is EEXIST",
            assign(other_fd),
            Err(Errno::EEXIST)
        );
        check_eq!("the same eventfd again is EEXIST", assign(fd), Err(Errno::EEXIST));
        check_eq!(
            "a deassign of another connection is ENOENT",
            deassign(CONNECTION + 1),
            Err(Errno::ENOENT)
        );
        check_eq!("another connection may share the eventfd", eventfd(&t.vm, 10, fd, 0), Ok(()));
        check_eq!("an event of the first connection succeeds", caller.call(signal)?, DONE);
        check_eq!(
            "an event of the second connection succeeds",
            caller.call(fast_signal(10))?,
            DONE
        );
        check_eq!("events of both connections signal the shared eventfd", event.take(), Ok(2));
        check_eq!("an eventfd that was refused is not signalled", other.take(), Err(Errno::EAGAIN));
        drop(closed);
        check_eq!("an event succeeds after its descriptor was closed", caller.call(signal)?, DONE);
        check_eq!("an event signals the eventfd whose descriptor was closed", event.take(), Ok(1));
        check_eq!("the connection can be freed", deassign(CONNECTION), Ok(()));
        check_eq!(
            "a second deassign of a connection is ENOENT",
            deassign(CONNECTION),
            Err(Errno::ENOENT)
        );
        check_eq!(
            "events of a freed connection exit to userspace",
            caller.exits(signal, 5)?.1,
            Ok(5)
        );
        check_eq!(
            "events of a freed connection signal no eventfd",
            event.take(),
            Err(Errno::EAGAIN)
        );
        check_eq!("a freed connection takes a new eventfd", assign(other_fd), Ok(()));
        check_eq!("an event of the new eventfd's connection succeeds", caller.call(signal)?, DONE);
        check_eq!("an event signals the connection's new eventfd", other.take(), Ok(1));
        Ok(())
    }
}
