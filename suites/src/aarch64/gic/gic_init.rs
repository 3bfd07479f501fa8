//! How userspace makes a GIC: addresses, number of interrupts, order (Documentation/virt/kvm/devices/arm-vgic.rst,
//! arm-vgic-v3.rst).
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;

#[guest]
fn does_nothing(_: &mut Guest) {}

#[guest]
fn finds_both_regions(g: &mut Guest) {
    for n in 0..2 {
        let frame = Block::<gicr::Redistributor>::at(g.arg(n));
        let typer = frame.read(gicr::TYPER);
        check_eq!(
            "a region has the redistributor of its vCPU",
            typer >> gicr::TYPER_AFFINITY_SHIFT,
            n as u64
        );
        check!(
            "a region's redistributor is the last of its region",
            typer & gicr::TYPER_LAST != 0,
            "{typer:#x}"
        );
    }
}

#[guest]
fn reads_the_distributor(_: &mut Guest) {
    gic::DIST.read(gicd::TYPER);
}

#[host]
mod host {
    use super::*;
    use GicVersion::{V2, V3};
    use layout::aarch64::{GICC, GICD, GICR, GICR_STRIDE};
    use std::time::{Duration, Instant};
    use vm::bindings::{
        KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
        KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST,
        KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
        KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
    };

    const ADDR: u32 = KVM_DEV_ARM_VGIC_GRP_ADDR;
    const NR_IRQS: u32 = KVM_DEV_ARM_VGIC_GRP_NR_IRQS;
    const BAD_ADDRESS: u64 = 1 << 63;

    /// The two addresses that a GIC needs, and their alignment.
    fn addresses(version: GicVersion) -> [(&'static str, u64, u64, u64); 2] {
        match version {
            V2 => [
                ("the distributor", KVM_VGIC_V2_ADDR_TYPE_DIST.into(), GICD, 0x1000),
                ("the CPU interface", KVM_VGIC_V2_ADDR_TYPE_CPU.into(), GICC, 0x1000),
            ],
            V3 => [
                ("the distributor", KVM_VGIC_V3_ADDR_TYPE_DIST.into(), GICD, 0x1_0000),
                ("the redistributors", KVM_VGIC_V3_ADDR_TYPE_REDIST.into(), GICR, 0x1_0000),
            ],
        }
    }

    /// KVM_DEV_ARM_VGIC_GRP_ADDR takes an aligned address of guest-physical memory, once.
    #[kvm_test(does_nothing, params = [gicv2: V2, gicv3: V3])]
    fn addresses_are_checked(t: &mut OneVm, version: GicVersion) -> TestResult {
        let gic = Gic::without_addresses(&t.vm, version)?;
        let device = gic.device();
        let other = if version == V2 { V3 } else { V2 };
        for (name, attr, address, alignment) in addresses(version) {
            let set = |address: u64| device.set(ADDR, attr, address);
            check_eq!("{name} has an address attribute", device.has(ADDR, attr), Ok(()));
            check_eq!(
                "{name} at a misaligned address is EINVAL",
                set(address + alignment / 2),
                Err(Errno::EINVAL)
            );
            check_eq!(
                "{name} beyond guest-physical memory is E2BIG",
                set(1 << 48),
                Err(Errno::E2BIG)
            );
            check_eq!(
                "{name} at a bad pointer is EFAULT",
                device.set_at(ADDR, attr, BAD_ADDRESS),
                Err(Errno::EFAULT)
            );
            check_eq!("{name} at an aligned address is accepted", set(address), Ok(()));
            check_eq!("{name} reads back its address", device.get::<u64>(ADDR, attr), Ok(address));
            check_eq!(
                "a second address of {name} is EEXIST",
                set(address + (1 << 24)),
                Err(Errno::EEXIST)
            );
            check_eq!("{name} keeps the first address", device.get::<u64>(ADDR, attr), Ok(address));
        }
        for (name, attr, address, _) in addresses(other) {
            check_eq!(
                "{name} of the other version is ENXIO",
                device.set(ADDR, attr, address),
                Err(Errno::ENXIO)
            );
        }
        check_eq!("an unknown address type is ENXIO", device.has(ADDR, 99), Err(Errno::ENXIO));
        check_eq!(
            "an unknown address type cannot be set",
            device.set(ADDR, 99, GICD),
            Err(Errno::ENXIO)
        );
        Ok(())
    }

    /// KVM_DEV_ARM_VGIC_GRP_NR_IRQS takes 64 to 1024 interrupts in steps of 32, once.
    #[kvm_test(does_nothing, params = [gicv2: V2, gicv3: V3])]
    fn number_of_interrupts_is_checked(t: &mut OneVm, version: GicVersion) -> TestResult {
        for nr_irqs in [0, 32, 63, 65, 96 + 16, 1056, 1 << 31] {
            let vm = Vm::new(VmConfig::new())?;
            let gic = Gic::create(&vm, version)?;
            check_eq!(
                "{nr_irqs} interrupts are EINVAL",
                gic.set_nr_irqs(nr_irqs),
                Err(Errno::EINVAL)
            );
        }
        for nr_irqs in [64, 96, 992, 1024] {
            let vm = Vm::new(VmConfig::new())?;
            let gic = Gic::create(&vm, version)?;
            check_eq!("{nr_irqs} interrupts are accepted", gic.set_nr_irqs(nr_irqs), Ok(()));
            check_eq!(
                "{nr_irqs} interrupts read back as set",
                gic.device().get::<u32>(NR_IRQS, 0),
                Ok(nr_irqs)
            );
        }
        let gic = Gic::create(&t.vm, version)?;
        check_eq!(
            "a number of interrupts at a bad pointer is EFAULT",
            gic.device().set_at(NR_IRQS, 0, BAD_ADDRESS),
            Err(Errno::EFAULT)
        );
        gic.set_nr_irqs(64).ioctl("KVM_DEV_ARM_VGIC_GRP_NR_IRQS")?;
        check_eq!("a second number of interrupts is EBUSY", gic.set_nr_irqs(64), Err(Errno::EBUSY));
        Ok(())
    }

    /// The GIC is made once, before its vCPUs run, and initialized when they are there.
    #[kvm_test(does_nothing, params = [gicv2: V2, gicv3: V3])]
    fn order_of_creation(t: &mut OneVm, version: GicVersion) -> TestResult {
        let gic = Gic::create(&t.vm, version)?;
        let second = Device::create(&t.vm, version.device_type()).map(drop);
        check_eq!("a second GIC of a VM is EEXIST", second, Err(Errno::EEXIST));
        let device = gic.device();
        let init = u64::from(KVM_DEV_ARM_VGIC_CTRL_INIT);
        check_eq!(
            "the GIC has the attribute CTRL_INIT",
            device.has(KVM_DEV_ARM_VGIC_GRP_CTRL, init),
            Ok(())
        );
        check_eq!(
            "an unknown control of the GIC is ENXIO",
            device.has(KVM_DEV_ARM_VGIC_GRP_CTRL, 99),
            Err(Errno::ENXIO)
        );
        let mut vcpu = t.add_vcpu(0)?;
        check_eq!("CTRL_INIT is accepted when there are vCPUs", gic.try_init(), Ok(()));
        check_eq!("a second CTRL_INIT changes nothing", gic.try_init(), Ok(()));
        check_eq!(
            "the number of interrupts is fixed after CTRL_INIT",
            gic.set_nr_irqs(64),
            Err(Errno::EBUSY)
        );
        check_eq!(
            "the number of interrupts is 256 where none was set",
            device.get::<u32>(NR_IRQS, 0),
            Ok(256)
        );
        let late = t.vm.fd().create_vcpu(1).map(drop).errno();
        check_eq!("a vCPU after CTRL_INIT is EBUSY", late, Err(Errno::EBUSY));
        vcpu.run_until_done()
    }

    /// `count`, `base` and `index` of a redistributor region.
    fn region(count: u64, base: u64, index: u64) -> u64 {
        count << 52 | base | index
    }

    /// Redistributors can lie in several regions, which are given in order.
    #[kvm_test(finds_both_regions, vcpus = 2)]
    fn redistributor_regions(t: &mut OneVm) -> TestResult {
        const ATTR: u64 = KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION as u64;
        const FIRST: u64 = GICR;
        const SECOND: u64 = GICR + 4 * GICR_STRIDE;
        let gic = Gic::without_addresses(&t.vm, V3)?;
        let device = gic.device();
        let set = |value: u64| device.set(ADDR, ATTR, value);
        device
            .set(ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST.into(), GICD)
            .ioctl("KVM_VGIC_V3_ADDR_TYPE_DIST")?;
        check_eq!(
            "a region of no redistributor is EINVAL",
            set(region(0, FIRST, 0)),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "reserved flags of a region are EINVAL",
            set(region(1, FIRST, 0) | 1 << 12),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "a first region that is not number 0 is EINVAL",
            set(region(1, FIRST, 1)),
            Err(Errno::EINVAL)
        );
        check_eq!("the first region is accepted", set(region(1, FIRST, 0)), Ok(()));
        check_eq!(
            "a second region of the same number is EINVAL",
            set(region(1, SECOND, 0)),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "a region that leaves out a number is EINVAL",
            set(region(1, SECOND, 2)),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "an overlapping region is EINVAL",
            set(region(1, FIRST + 0x1_0000, 1)),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "a region beyond guest-physical memory is E2BIG",
            set(region(1, 1 << 48, 1)),
            Err(Errno::E2BIG)
        );
        check_eq!(
            "the old kind of address is EINVAL beside regions",
            device.set(ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST.into(), SECOND),
            Err(Errno::EINVAL)
        );
        check_eq!("the second region is accepted", set(region(1, SECOND, 1)), Ok(()));
        let get = |index: u64| device.query::<u64>(ADDR, ATTR, index);
        check_eq!("the first region reads back as set", get(0), Ok(region(1, FIRST, 0)));
        check_eq!("the second region reads back as set", get(1), Ok(region(1, SECOND, 1)));
        check_eq!("a region that does not exist is ENOENT", get(2), Err(Errno::ENOENT));
        let mut vcpu = t.add_vcpu(0)?;
        let _other = t.add_vcpu(1)?;
        gic.init()?;
        vcpu.set_args(&[FIRST, SECOND]);
        vcpu.run_until_done()
    }

    /// The GIC is there for every vCPU that runs, also when the first KVM_RUN of several comes at a time: no
    /// access to it goes to userspace.
    #[kvm_test(reads_the_distributor, vcpus = 2, params = [gicv2: V2, gicv3: V3])]
    fn all_vcpus_start_with_the_gic(t: &mut OneVm, version: GicVersion) -> TestResult {
        const NR_VMS: usize = 100;
        const LONGEST: Duration = Duration::from_millis(800);
        let guest = t.setup.guest()?;
        let end = Instant::now() + LONGEST;
        for _ in 0..NR_VMS {
            let mut vm = Vm::new(VmConfig::new())?;
            let result =
                Bench::of(&mut vm, version, guest, &[guest], |_| Ok(()))?.run_all_at_once();
            let (works, why) = match result {
                Ok(()) => (true, String::new()),
                Err(Failure::Fail(why)) => (false, why),
                Err(other) => return Err(other),
            };
            check!("vCPUs that start together all see the distributor", works, "{why}");
            if !works || Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }
}
