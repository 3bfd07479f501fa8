//! ioeventfd: guest writes that signal an eventfd instead of ending KVM_RUN (api.rst 4.59).
use crate::prelude::*;

/// The guest is ready for the next access.
const STEP_PORT: u16 = 0x90;
/// Where the ioeventfds are, with room for neighbours.
const PORT: u64 = 0xc000;
const MMIO: u64 = layout::FREE + 0x1000;
/// Told apart by value, so that one guest function serves every test.
const WRITE: u64 = 0;
const READ: u64 = 1;
const OUTS: u64 = 2;
/// Writes that each of two vCPUs makes.
const ROUNDS: u64 = 200;
/// Elements of the string write.
const STRING: u64 = 5;

/// The access that the guest makes next: kind, address, width, value.
#[shared]
static ACCESS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

#[guest]
fn makes_accesses(_: &mut Guest) {
    loop {
        outb(STEP_PORT, 0);
        let [kind, address, width, value] = [0, 1, 2, 3].map(|i| ACCESS[i].load(SeqCst));
        let port = address as u16;
        match (address < MMIO, kind, width) {
            (true, WRITE, 1) => outb(port, value as u8),
            (true, WRITE, 2) => outw(port, value as u16),
            (true, WRITE, _) => outl(port, value as u32),
            (true, READ, _) => drop(inb(port)),
            (true, ..) => outsb(port, &[0; STRING as usize]),
            (false, READ, _) => drop(peek::<u8>(address)),
            (false, _, 1) => poke(address, value as u8),
            (false, _, 2) => poke(address, value as u16),
            (false, _, 4) => poke(address, value as u32),
            (false, ..) => poke(address, value),
        }
    }
}

#[guest]
fn writes_many(_: &mut Guest) {
    for _ in 0..ROUNDS {
        outb(PORT as u16, 1);
        poke(MMIO, 1_u32);
    }
}

#[host]
mod host {
    use super::*;

    const DATAMATCH: u32 = 1 << bindings::kvm_ioeventfd_flag_nr_datamatch;
    const PIO: u32 = 1 << bindings::kvm_ioeventfd_flag_nr_pio;
    const DEASSIGN: u32 = 1 << bindings::kvm_ioeventfd_flag_nr_deassign;

    /// An address space of the guest's.
    #[derive(Clone, Copy)]
    struct Bus {
        flag: u32,
        addr: u64,
        widths: &'static [u32],
    }

    const PORTS: Bus = Bus { flag: PIO, addr: PORT, widths: &[1, 2, 4] };
    const MEMORY: Bus = Bus { flag: 0, addr: MMIO, widths: &[1, 2, 4, 8] };

    impl Bus {
        fn at(self, len: u32, event: &Event) -> IoEventfd {
            let fd = std::os::fd::AsRawFd::as_raw_fd(event);
            IoEventfd { addr: self.addr, len, fd, flags: self.flag, datamatch: 0 }
        }

        fn matching(self, len: u32, event: &Event, datamatch: u64) -> IoEventfd {
            let any = self.at(len, event);
            IoEventfd { datamatch, flags: any.flags | DATAMATCH, ..any }
        }
    }

    fn deassign(ioeventfd: IoEventfd) -> IoEventfd {
        IoEventfd { flags: ioeventfd.flags | DEASSIGN, ..ioeventfd }
    }

    /// Lets the guest make one access; says whether it ended KVM_RUN.
    fn exits(t: &mut OneVcpu, kind: u64, address: u64, width: u32, value: u64) -> TestResult<bool> {
        let access = t.vm.shared(shared_static!(ACCESS));
        for (slot, word) in access.iter().zip([kind, address, width.into(), value]) {
            slot.store(word, SeqCst);
        }
        let mut exited = false;
        loop {
            match t.vcpu.run_until_exit()?.map(|stop| stop.exit()) {
                Some(Exit::Io { port: STEP_PORT, .. }) => return Ok(exited),
                Some(Exit::Io { port, size, .. })
                    if u64::from(port) == address && u32::from(size) == width =>
                {
                    exited = true;
                }
                Some(Exit::Mmio { gpa, len, .. }) if gpa == address && len == width => {
                    exited = true
                }
                other => fail!("{other:x?} for a {width}-byte access at {address:#x}"),
            }
        }
    }

    fn write_exits(t: &mut OneVcpu, address: u64, width: u32, value: u64) -> TestResult<bool> {
        exits(t, WRITE, address, width, value)
    }

    /// A write of the registered length at the registered address signals once and does not exit;
    /// every other access exits and signals nothing (api.rst 4.59).
    #[kvm_test(makes_accesses, moved, requires(cap::IOEVENTFD), params = [pio: PORTS, mmio: MEMORY])]
    fn write_of_registered_length_signals(t: &mut OneVcpu, bus: Bus) -> TestResult {
        t.vcpu.run_until(Exit::io_out(STEP_PORT))?;
        for &len in bus.widths {
            let event = Event::new()?;
            let registered = bus.at(len, &event);
            t.vm.ioeventfd(registered).ioctl("KVM_IOEVENTFD")?;
            for &width in bus.widths {
                let exited = write_exits(t, bus.addr, width, 0x55)?;
                let count = event.count();
                if width == len {
                    check!("a {len}-byte write to a {len}-byte ioeventfd does not exit", !exited);
                    check_eq!(
                        "a {len}-byte write to a {len}-byte ioeventfd signals once",
                        count,
                        1
                    );
                } else {
                    check!("a {width}-byte write to a {len}-byte ioeventfd exits", exited);
                    check_eq!(
                        "a {width}-byte write to a {len}-byte ioeventfd signals nothing",
                        count,
                        0
                    );
                }
            }
            for value in [0, 1, u64::MAX >> (64 - 8 * len)] {
                write_exits(t, bus.addr, len, value)?;
            }
            check_eq!("every {len}-byte value signals without datamatch", event.count(), 3);
            check!(
                "a write {len} bytes behind a {len}-byte ioeventfd exits",
                write_exits(t, bus.addr + u64::from(len), len, 0)?
            );
            check!("a read of a {len}-byte ioeventfd exits", exits(t, READ, bus.addr, 1, 0)?);
            check_eq!(
                "neighbours and reads do not signal a {len}-byte ioeventfd",
                event.count(),
                0
            );
            t.vm.ioeventfd(deassign(registered)).ioctl("KVM_IOEVENTFD(deassign)")?;
            check!(
                "a write after deassign of {len} bytes exits",
                write_exits(t, bus.addr, len, 0)?
            );
            check_eq!("a write after deassign of {len} bytes signals nothing", event.count(), 0);
        }
        Ok(())
    }

    /// With KVM_IOEVENTFD_FLAG_DATAMATCH only the one value signals, and several values of one address
    /// have an eventfd each (api.rst 4.59).
    #[kvm_test(makes_accesses, requires(cap::IOEVENTFD), params = [pio: PORTS, mmio: MEMORY])]
    fn datamatch_selects_the_value(t: &mut OneVcpu, bus: Bus) -> TestResult {
        t.vcpu.run_until(Exit::io_out(STEP_PORT))?;
        for &len in bus.widths {
            let top = u64::MAX >> (64 - 8 * len);
            let (first, last, beyond) = (Event::new()?, Event::new()?, Event::new()?);
            t.vm.ioeventfd(bus.matching(len, &first, 0)).ioctl("KVM_IOEVENTFD(0)")?;
            t.vm.ioeventfd(bus.matching(len, &last, top)).ioctl("KVM_IOEVENTFD(top)")?;
            if len < 8 {
                // Its low bits are those of a value that is written below.
                let unreachable = bus.matching(len, &beyond, 1 << (8 * len) | 1);
                t.vm.ioeventfd(unreachable).ioctl("KVM_IOEVENTFD(beyond)")?;
            }
            check!("a {len}-byte write of value 0 matches", !write_exits(t, bus.addr, len, 0)?);
            check_eq!("{len}-byte value 0 signals its eventfd", first.count(), 1);
            check_eq!("{len}-byte value 0 leaves the other eventfd alone", last.count(), 0);
            check!("a {len}-byte write of all ones matches", !write_exits(t, bus.addr, len, top)?);
            check_eq!("{len}-byte all ones signal their eventfd", last.count(), 1);
            check_eq!("{len}-byte all ones leave the other eventfd alone", first.count(), 0);
            check!("a {len}-byte write of another value exits", write_exits(t, bus.addr, len, 1)?);
            check!(
                "a {len}-byte write with one bit off exits",
                write_exits(t, bus.addr, len, top ^ 1 << (8 * len - 1))?
            );
            check_eq!("other {len}-byte values signal no eventfd", first.count() + last.count(), 0);
            check_eq!("datamatch bits beyond {len} bytes never match", beyond.count(), 0);
            for (event, value) in [(&first, 0), (&last, top)] {
                t.vm.ioeventfd(deassign(bus.matching(len, event, value))).ioctl("deassign")?;
            }
            if len < 8 {
                let unreachable = bus.matching(len, &beyond, 1 << (8 * len) | 1);
                t.vm.ioeventfd(deassign(unreachable)).ioctl("deassign")?;
            }
        }
        Ok(())
    }

    /// With KVM_CAP_IOEVENTFD_ANY_LENGTH a length of 0 takes writes of every length (api.rst 4.59); for
    /// MMIO that is the fast path, which must still step over the instruction.
    #[kvm_test(makes_accesses, requires(cap::IOEVENTFD_ANY_LENGTH), params = [pio: PORTS, mmio: MEMORY])]
    fn length_zero_takes_every_length(t: &mut OneVcpu, bus: Bus) -> TestResult {
        t.vcpu.run_until(Exit::io_out(STEP_PORT))?;
        let event = Event::new()?;
        t.vm.ioeventfd(bus.at(0, &event)).ioctl("KVM_IOEVENTFD(length 0)")?;
        for &width in bus.widths {
            check!(
                "a {width}-byte write to length 0 does not exit",
                !write_exits(t, bus.addr, width, 7)?
            );
            check_eq!("a {width}-byte write to length 0 signals once", event.count(), 1);
            let next = bus.addr + 8;
            check!("a {width}-byte write next to length 0 exits", write_exits(t, next, width, 7)?);
            check_eq!("a {width}-byte write next to length 0 signals nothing", event.count(), 0);
        }
        t.vm.ioeventfd(deassign(bus.at(0, &event))).ioctl("KVM_IOEVENTFD(deassign)")?;
        for &width in bus.widths {
            check!(
                "a {width}-byte write after deassign exits",
                write_exits(t, bus.addr, width, 7)?
            );
        }
        check_eq!("writes after deassign signal nothing", event.count(), 0);
        Ok(())
    }

    /// Each write adds one to the counter, and one eventfd may stand at several addresses and on both
    /// buses (eventfd(2); api.rst 4.59).
    #[kvm_test(makes_accesses, requires(cap::IOEVENTFD))]
    fn writes_are_counted(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until(Exit::io_out(STEP_PORT))?;
        let event = Event::new()?;
        for bus in [PORTS, MEMORY] {
            t.vm.ioeventfd(bus.at(1, &event)).ioctl("KVM_IOEVENTFD")?;
            for _ in 0..3 {
                write_exits(t, bus.addr, 1, 0)?;
            }
        }
        check!("the signalled eventfd is readable", event.is_readable()?);
        check_eq!("three writes on each of two buses count six", event.count(), 6);
        check!("the eventfd is not readable after a read", !event.is_readable()?);
        check!("REP OUTS does not exit", !exits(t, OUTS, PORT, 1, 0)?);
        check_eq!("each element of REP OUTS signals", event.count(), STRING);
        t.vm.ioeventfd(deassign(PORTS.at(1, &event))).ioctl("deassign")?;
        check!("a write to the port exits after its deassign", write_exits(t, PORT, 1, 0)?);
        check!("a write to the MMIO address does not exit", !write_exits(t, MMIO, 1, 0)?);
        check_eq!("a write to the MMIO address still signals", event.count(), 1);
        Ok(())
    }

    /// KVM holds the eventfd, not the descriptor: it may be closed, and any descriptor of the same
    /// eventfd takes it off again.
    #[kvm_test(makes_accesses, requires(cap::IOEVENTFD), sees(moved: "closes the eventfd, which a new VM would need"))]
    fn assignment_outlives_the_descriptor(t: &mut OneVcpu) -> TestResult {
        use std::os::fd::AsRawFd;
        t.vcpu.run_until(Exit::io_out(STEP_PORT))?;
        let event = Event::new()?;
        let closed = event.duplicate()?;
        let by_duplicate = IoEventfd { fd: closed.as_raw_fd(), ..PORTS.at(4, &event) };
        t.vm.ioeventfd(by_duplicate).ioctl("KVM_IOEVENTFD")?;
        drop(closed);
        check!(
            "a write does not exit after the descriptor is closed",
            !write_exits(t, PORT, 4, 0)?
        );
        check_eq!("a write signals the eventfd behind the closed descriptor", event.count(), 1);
        let gone = t.vm.ioeventfd(deassign(PORTS.at(4, &event)));
        check_eq!("another descriptor of the eventfd deassigns it", gone, Ok(()));
        check!("a write exits after the deassign", write_exits(t, PORT, 4, 0)?);
        let last = Event::new()?;
        t.vm.ioeventfd(PORTS.at(4, &last)).ioctl("KVM_IOEVENTFD")?;
        drop(last);
        check!(
            "a write to an eventfd that nobody reads does not exit",
            !write_exits(t, PORT, 4, 0)?
        );
        Ok(())
    }

    /// Writes of two vCPUs at once are all counted.
    #[kvm_test(writes_many, requires(cap::IOEVENTFD), vcpus = 2)]
    fn two_vcpus_lose_no_signal(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(writes_many))?;
        let (ports, memory) = (Event::new()?, Event::new()?);
        t.vm.ioeventfd(PORTS.at(1, &ports)).ioctl("KVM_IOEVENTFD")?;
        t.vm.ioeventfd(MEMORY.at(4, &memory)).ioctl("KVM_IOEVENTFD")?;
        run_together([&mut t.vcpu, &mut second], Vcpu::run_until_done)?;
        check_eq!("every OUT of both vCPUs was counted", ports.count(), 2 * ROUNDS);
        check_eq!("every MMIO write of both vCPUs was counted", memory.count(), 2 * ROUNDS);
        Ok(())
    }

    /// Malformed requests are refused: EINVAL, EBADF (api.rst 4.59; include/uapi/linux/kvm.h).
    #[kvm_test(requires(cap::IOEVENTFD))]
    fn malformed_requests_are_refused(t: &mut OneVm) -> TestResult {
        use std::os::fd::AsRawFd;
        let event = Event::new()?;
        let good = MEMORY.at(4, &event);
        for len in [3, 5, 6, 7, 9, 16, u32::MAX] {
            let refused = t.vm.ioeventfd(IoEventfd { len, ..good });
            check_eq!("a length of {len} is EINVAL", refused, Err(Errno::EINVAL));
        }
        for bit in [bindings::kvm_ioeventfd_flag_nr_max, 8, 31] {
            let refused = t.vm.ioeventfd(IoEventfd { flags: 1 << bit, ..good });
            check_eq!("unknown flag bit {bit} is EINVAL", refused, Err(Errno::EINVAL));
        }
        let wraps = IoEventfd { addr: u64::MAX - 2, ..good };
        check_eq!(
            "an address range that wraps is EINVAL",
            t.vm.ioeventfd(wraps),
            Err(Errno::EINVAL)
        );
        let no_fd = IoEventfd { fd: -1, ..good };
        check_eq!("a descriptor of -1 is EBADF", t.vm.ioeventfd(no_fd), Err(Errno::EBADF));
        check_eq!(
            "deassign with a descriptor of -1 is EBADF",
            t.vm.ioeventfd(deassign(no_fd)),
            Err(Errno::EBADF)
        );
        let not_event = IoEventfd { fd: t.vm.as_raw_fd(), ..good };
        check_eq!(
            "a descriptor of no eventfd is EINVAL",
            t.vm.ioeventfd(not_event),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "deassign with a descriptor of no eventfd is EINVAL",
            t.vm.ioeventfd(deassign(not_event)),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "refused requests have assigned nothing",
            t.vm.ioeventfd(deassign(good)),
            Err(Errno::ENOENT)
        );
        check_eq!("the well-formed request is accepted", t.vm.ioeventfd(good), Ok(()));
        Ok(())
    }

    /// A length of 0 cannot be combined with datamatch: there is no value to compare.
    #[kvm_test(requires(cap::IOEVENTFD_ANY_LENGTH), params = [pio: PORTS, mmio: MEMORY])]
    fn length_zero_refuses_datamatch(t: &mut OneVm, bus: Bus) -> TestResult {
        let event = Event::new()?;
        let refused = t.vm.ioeventfd(bus.matching(0, &event, 0));
        check_eq!("length 0 with datamatch is EINVAL", refused, Err(Errno::EINVAL));
        check_eq!(
            "length 0 without datamatch is accepted",
            t.vm.ioeventfd(bus.at(0, &event)),
            Ok(())
        );
        let again = t.vm.ioeventfd(bus.at(0, &event));
        check_eq!("length 0 twice is EEXIST", again, Err(Errno::EEXIST));
        let other = Event::new()?;
        let again = t.vm.ioeventfd(bus.at(2, &other));
        check_eq!("any length behind length 0 is EEXIST", again, Err(Errno::EEXIST));
        t.vm.ioeventfd(deassign(bus.at(0, &event))).ioctl("deassign")?;
        check_eq!(
            "deassign of length 0 frees the address",
            t.vm.ioeventfd(bus.at(2, &other)),
            Ok(())
        );
        let again = t.vm.ioeventfd(bus.at(0, &event));
        check_eq!("length 0 behind any length is EEXIST", again, Err(Errno::EEXIST));
        Ok(())
    }

    /// Two assignments that one write could match are refused; all others live side by side.
    #[kvm_test(requires(cap::IOEVENTFD), params = [pio: PORTS, mmio: MEMORY])]
    fn ambiguous_assignment_is_refused(t: &mut OneVm, bus: Bus) -> TestResult {
        let (event, other) = (Event::new()?, Event::new()?);
        let exists = Err(Errno::EEXIST);
        t.vm.ioeventfd(bus.matching(4, &event, 1)).ioctl("KVM_IOEVENTFD")?;
        check_eq!(
            "the same assignment again is EEXIST",
            t.vm.ioeventfd(bus.matching(4, &event, 1)),
            exists
        );
        check_eq!(
            "the same assignment of another eventfd is EEXIST",
            t.vm.ioeventfd(bus.matching(4, &other, 1)),
            exists
        );
        check_eq!(
            "a wildcard over a datamatch is EEXIST",
            t.vm.ioeventfd(bus.at(4, &other)),
            exists
        );
        check_eq!(
            "a second value of one address is accepted",
            t.vm.ioeventfd(bus.matching(4, &event, 2)),
            Ok(())
        );
        check_eq!(
            "another length of one address is accepted",
            t.vm.ioeventfd(bus.matching(2, &event, 1)),
            Ok(())
        );
        check_eq!(
            "a wildcard of another length is accepted",
            t.vm.ioeventfd(bus.at(1, &other)),
            Ok(())
        );
        check_eq!(
            "a datamatch under a wildcard is EEXIST",
            t.vm.ioeventfd(bus.matching(1, &event, 9)),
            exists
        );
        let next = IoEventfd { addr: bus.addr + 1, ..bus.at(4, &other) };
        check_eq!(
            "an overlapping range at another address is accepted",
            t.vm.ioeventfd(next),
            Ok(())
        );
        let elsewhere = IoEventfd { flags: bus.flag ^ PIO, ..bus.at(4, &other) };
        check_eq!(
            "the same address on the other bus is accepted",
            t.vm.ioeventfd(elsewhere),
            Ok(())
        );
        Ok(())
    }

    /// Deassign takes off exactly what was assigned: same bus, address, length, eventfd and datamatch.
    #[kvm_test(requires(cap::IOEVENTFD), params = [pio: PORTS, mmio: MEMORY])]
    fn deassign_needs_the_exact_assignment(t: &mut OneVm, bus: Bus) -> TestResult {
        let (event, other) = (Event::new()?, Event::new()?);
        let none = Err(Errno::ENOENT);
        let assigned = bus.matching(4, &event, 1);
        check_eq!(
            "deassign of what was never assigned is ENOENT",
            t.vm.ioeventfd(deassign(assigned)),
            none
        );
        t.vm.ioeventfd(assigned).ioctl("KVM_IOEVENTFD")?;
        let off = |ioeventfd: IoEventfd| t.vm.ioeventfd(deassign(ioeventfd));
        check_eq!(
            "deassign of another address is ENOENT",
            off(IoEventfd { addr: bus.addr + 4, ..assigned }),
            none
        );
        check_eq!(
            "deassign of another length is ENOENT",
            off(IoEventfd { len: 2, ..assigned }),
            none
        );
        check_eq!("deassign of another eventfd is ENOENT", off(bus.matching(4, &other, 1)), none);
        check_eq!(
            "deassign of another value is ENOENT",
            off(IoEventfd { datamatch: 2, ..assigned }),
            none
        );
        check_eq!(
            "deassign of the address without datamatch is ENOENT",
            off(bus.at(4, &event)),
            none
        );
        check_eq!(
            "deassign of the other bus is ENOENT",
            off(IoEventfd { flags: assigned.flags ^ PIO, ..assigned }),
            none
        );
        check_eq!("deassign of exactly what was assigned succeeds", off(assigned), Ok(()));
        check_eq!("a second deassign is ENOENT", off(assigned), none);
        check_eq!(
            "the address is free after the deassign",
            t.vm.ioeventfd(bus.at(4, &other)),
            Ok(())
        );
        Ok(())
    }
}
