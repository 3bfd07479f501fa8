//! Calls to firmware that KVM answers (SMC Calling Convention, Arm DEN0028; TRNG, DEN0098;
//! Documentation/virt/kvm/arm/{hypercalls,fw-pseudo-registers,pvtime}.rst).
use crate::prelude::*;
use smccc::{KVM_UID, NOT_SUPPORTED, SMC64, TRNG_INVALID_PARAMETERS, fast, function, owner};

/// Functions whose presence says how far a workaround goes.
const WORKAROUNDS: [u32; 3] =
    [function::ARCH_WORKAROUND_1, function::ARCH_WORKAROUND_2, function::ARCH_WORKAROUND_3];
/// A function that no service of the standard has.
const UNKNOWN: u32 = fast(owner::STANDARD, 0xfe77);

#[guest]
fn asks_for_nothing_known(_: &mut Guest) {
    let version = hvc(function::VERSION, [0; 3])[0];
    check!(
        "SMCCC is version 1.1 or later",
        (smccc::V1_1 as u64..0x2_0000).contains(&version),
        "{version:#x}"
    );
    // Every owner, fast and yielding, 32 and 64 bits, with a number that nobody has given a meaning.
    for owner in 0..64 {
        for kind in [smccc::FAST, smccc::FAST | SMC64, 0, SMC64] {
            let id = kind | owner << smccc::OWNER_SHIFT | 0xfe77;
            let results = hvc(id, [1, 2, 3]);
            check!("an unknown function is NOT_SUPPORTED", results[0] == NOT_SUPPORTED, "{id:#x}");
        }
    }
    let results = hvc(UNKNOWN, [0; 3]);
    check_eq!("NOT_SUPPORTED has 64 bits", results[0], NOT_SUPPORTED);
    for id in [function::VERSION, UNKNOWN] {
        let kept = registers_after_hvc(id);
        let right = kept.into_iter().zip(4..).all(|(x, n)| x == n);
        check!("X4 to X17 are preserved", right, "{kept:x?}");
    }
    for feature in [fast(owner::ARCHITECTURE, 0xfe77).into(), 0, !0] {
        let result = hvc(function::ARCH_FEATURES, [feature, 0, 0])[0];
        check_eq!("ARCH_FEATURES of an unknown function is NOT_SUPPORTED", result, NOT_SUPPORTED);
    }
    let smc_version = smc(function::VERSION, [0; 3])[0];
    check!(
        "SMC returns what HVC returns, or NOT_SUPPORTED",
        smc_version == version || smc_version == NOT_SUPPORTED,
        "{smc_version:#x}"
    );
    check_eq!(
        "SMC with another immediate is NOT_SUPPORTED",
        smc_1(function::VERSION, [0; 3])[0],
        NOT_SUPPORTED
    );
}

#[guest]
fn asks_for_workarounds(g: &mut Guest) {
    let features = WORKAROUNDS.map(|id| hvc(function::ARCH_FEATURES, [id.into(), 0, 0])[0]);
    for result in features {
        let plausible = matches!(result as i64, -2..=1);
        check!("ARCH_FEATURES of a workaround is one of its values", plausible, "{result:#x}");
    }
    g.sync(1, &features);
}

#[guest]
fn draws_random_numbers(_: &mut Guest) {
    use function::*;
    let version = hvc(TRNG_VERSION, [0; 3])[0];
    if version == NOT_SUPPORTED {
        guest_runtime::ucall::skip(format_args!("the TRNG service"));
    }
    check_eq!("TRNG is version 1.0", version, 0x1_0000);
    for id in [TRNG_VERSION, TRNG_FEATURES, TRNG_GET_UUID, TRNG_RND32, TRNG_RND64] {
        check_eq!(
            "TRNG_FEATURES reports its own functions",
            hvc(TRNG_FEATURES, [id.into(), 0, 0])[0],
            0
        );
    }
    check_eq!(
        "TRNG_FEATURES of another function is NOT_SUPPORTED",
        hvc(TRNG_FEATURES, [(function::TRNG_RND32 + 1).into(), 0, 0])[0],
        NOT_SUPPORTED
    );
    let uuid = hvc(TRNG_GET_UUID, [0; 3]);
    check!(
        "TRNG_GET_UUID returns a UUID",
        uuid[0] as u32 != !0 && uuid.iter().any(|&w| w != 0),
        "{uuid:x?}"
    );
    check!(
        "TRNG_GET_UUID returns words of 32 bits",
        uuid.iter().all(|&w| w >> 32 == 0),
        "{uuid:x?}"
    );

    // Results come in X3, then X2, then X1, from the lowest bit on.
    for (id, width) in [(TRNG_RND32, 32), (TRNG_RND64, 64)] {
        let mut ones = [0; 4];
        for n in
            [1, 2, width - 1, width, width + 1, 2 * width, 2 * width + 1, 3 * width - 1, 3 * width]
        {
            for _ in 0..4 {
                let drawn = hvc(id, [n, 0, 0]);
                check!(
                    "TRNG_RND returns up to three registers of bits",
                    drawn[0] == 0,
                    "{id:#x} {n}"
                );
                for (i, word) in [drawn[3], drawn[2], drawn[1]].into_iter().enumerate() {
                    let bits = n.saturating_sub(i as u64 * width).min(width);
                    let beyond = if bits == 64 { 0 } else { word >> bits };
                    check!(
                        "bits beyond those asked for are zero",
                        beyond == 0,
                        "{id:#x} {n} {drawn:x?}"
                    );
                    ones[i] |= word;
                }
            }
        }
        check!("bits are drawn for every register", ones[..3].iter().all(|&w| w != 0), "{ones:x?}");
        let [first, second] = [hvc(id, [3 * width, 0, 0]), hvc(id, [3 * width, 0, 0])];
        check!("two draws of TRNG_RND differ", first != second);
        for n in [3 * width + 1, u64::from(u32::MAX)] {
            let drawn = hvc(id, [n, 0, 0]);
            check!(
                "more than three registers of bits are INVALID_PARAMETERS",
                drawn[0] == TRNG_INVALID_PARAMETERS,
                "{id:#x} {n}"
            );
            check!(
                "a refused TRNG_RND returns no bits",
                drawn[1..].iter().all(|&w| w == 0),
                "{drawn:x?}"
            );
        }
        check_eq!(
            "TRNG_RND of no bits is INVALID_PARAMETERS",
            hvc(id, [0; 3])[0],
            TRNG_INVALID_PARAMETERS
        );
    }
}

#[guest]
fn asks_who_it_is(_: &mut Guest) {
    use function::*;
    let uid = hvc(VENDOR_HYP_UID, [0; 3]);
    if uid[0] == NOT_SUPPORTED {
        guest_runtime::ucall::skip(format_args!("the vendor's hypervisor services"));
    }
    check_eq!("the vendor's UID is KVM's", uid, KVM_UID);
    let features = hvc(VENDOR_HYP_FEATURES, [0; 3]);
    check!("the vendor's features list the call itself", features[0] & 1 == 1, "{features:x?}");
    if features[0] & 2 != 0 {
        for counter in [0, 1] {
            let count = if counter == 0 { CNTVCT_EL0 } else { CNTPCT_EL0 };
            let before = count.read();
            let time = hvc(VENDOR_HYP_PTP, [counter, 0, 0]);
            let after = count.read();
            if time[0] != NOT_SUPPORTED {
                let told = time[2] << 32 | time[3];
                check!("PTP returns a count of its own time", (before..=after).contains(&told));
                check!("PTP returns a time after 1970", time[0] << 32 | time[1] > 0);
            }
        }
        let time = hvc(VENDOR_HYP_PTP, [7, 0, 0]);
        check_eq!("PTP of a counter that does not exist is NOT_SUPPORTED", time[0], NOT_SUPPORTED);
    }
}

#[guest]
fn tells_of_services(g: &mut Guest) {
    use function::*;
    let there = |id: u32, args: [u64; 3]| u64::from(hvc(id, args)[0] != NOT_SUPPORTED);
    let services = [
        there(TRNG_VERSION, [0; 3]),
        there(ARCH_FEATURES, [PV_TIME_FEATURES.into(), 0, 0]),
        there(VENDOR_HYP_UID, [0; 3]),
        there(VENDOR_HYP_FEATURES, [0; 3]),
    ];
    check_eq!(
        "PSCI does not depend on a bitmap",
        hvc(psci::function::PSCI_VERSION, [0; 3])[0] as i64 > 0,
        true
    );
    g.sync(1, &services);
}

/// Where the record of stolen time is.
const STOLEN_TIME: u64 = layout::SCRATCH;

#[guest]
fn looks_for_stolen_time(g: &mut Guest) {
    use function::*;
    let given = g.arg(0) != 0;
    let features = |id: u32| hvc(PV_TIME_FEATURES, [id.into(), 0, 0])[0];
    let want = if given { 0 } else { NOT_SUPPORTED };
    check_eq!(
        "PV_TIME_FEATURES reports PV_TIME_ST if there is a record",
        features(PV_TIME_ST),
        want
    );
    check_eq!(
        "PV_TIME_FEATURES reports itself if there is a record",
        features(PV_TIME_FEATURES),
        want
    );
    check_eq!(
        "PV_TIME_FEATURES reports no other function",
        features(PV_TIME_ST + 1),
        NOT_SUPPORTED
    );
    let record = hvc(PV_TIME_ST, [0; 3])[0];
    check_eq!(
        "PV_TIME_ST returns the record's address",
        record,
        if given { STOLEN_TIME } else { NOT_SUPPORTED }
    );
    if given {
        check_eq!("the record is revision 0 without attributes", peek::<u64>(STOLEN_TIME), 0);
        let before = peek::<u64>(STOLEN_TIME + 8);
        g.sync(1, &[]);
        let after = peek::<u64>(STOLEN_TIME + 8);
        check!("stolen time never goes back", after >= before, "{before} {after}");
    }
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;
    use vm::bindings::{KVM_ARM_VCPU_PVTIME_CTRL, KVM_ARM_VCPU_PVTIME_IPA};

    /// What KVM does not know is NOT_SUPPORTED, and other registers are kept (DEN0028 5.2, 2.6).
    #[kvm_test(asks_for_nothing_known)]
    fn unknown_functions_are_not_supported(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The pseudo-registers tell userspace what ARCH_FEATURES tells the guest, and take no better level
    /// than the host has (fw-pseudo-registers.rst).
    #[kvm_test(asks_for_workarounds)]
    fn workarounds_are_told_to_both(t: &mut OneVcpu) -> TestResult {
        /// Results of ARCH_FEATURES by level: 0 not available, 1 available, 2 not required; of workaround 2
        /// 0 not available, 3 not required.
        const RESULTS: [[i64; 4]; 3] = [[-1, 0, 1, -99], [-1, -1, 0, -2], [-1, 0, 1, -99]];
        let seen = t.vcpu.run_until_sync(1)?;
        for ((number, results), seen) in (1_u16..).zip(RESULTS).zip(seen) {
            let Ok(level) = t.vcpu.get_reg(fw(number)) else { continue };
            check!(
                "workaround {number} has a level that is defined",
                level & 0xf < 4,
                "{level:#x}"
            );
            let want = results[level as usize & 3];
            check_eq!(
                "ARCH_FEATURES and userspace see one level of workaround {number}",
                seen as i64,
                want
            );
            check_eq!(
                "the level of workaround {number} can be restored",
                t.vcpu.set_reg(fw(number), level),
                Ok(())
            );
            let better = t.vcpu.set_reg(fw(number), 0xf);
            check_eq!(
                "a level of workaround {number} that does not exist is EINVAL",
                better,
                Err(Errno::EINVAL)
            );
            let bits = t.vcpu.set_reg(fw(number), level | 1 << 32);
            check_eq!("unknown bits of workaround {number} are EINVAL", bits, Err(Errno::EINVAL));
        }
        t.vcpu.run_until_done()
    }

    /// Pseudo-register `n` of the firmware: 0 is the PSCI version, 1 to 3 are workarounds.
    pub const fn fw(n: u16) -> u64 {
        bindings::KVM_REG_ARM64
            | bindings::KVM_REG_SIZE_U64
            | bindings::KVM_REG_ARM_FW as u64
            | n as u64
    }

    /// Bitmap `n` of services: 0 standard, 1 standard hypervisor, 2 vendor's hypervisor.
    const fn fw_bitmap(n: u16) -> u64 {
        bindings::KVM_REG_ARM64
            | bindings::KVM_REG_SIZE_U64
            | bindings::KVM_REG_ARM_FW_FEAT_BMAP as u64
            | n as u64
    }

    /// KVM's entropy service (DEN0098).
    #[kvm_test(draws_random_numbers)]
    fn trng_draws_bits(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// KVM says who it is, and what services of its own it has (hypercalls.rst).
    #[kvm_test(asks_who_it_is, irqchip)]
    fn vendor_services_name_kvm(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Userspace takes services from the guest by bitmaps, before the first KVM_RUN (fw-pseudo-registers.rst).
    #[kvm_test(tells_of_services, irqchip, params = [
    all: [true, true, true],
    no_standard: [false, true, true],
    no_standard_hyp: [true, false, true],
    no_vendor_hyp: [true, true, false],
    none: [false, false, false],
])]
    fn bitmaps_take_services_away(t: &mut OneVcpu, keep: [bool; 3]) -> TestResult {
        let vcpu = &mut t.vcpu;
        let mut set = [0; 3];
        for ((n, keep), set) in (0_u16..).zip(keep).zip(&mut set) {
            let Ok(all) = vcpu.get_reg(fw_bitmap(n)) else { skip!("KVM_REG_ARM_FW_FEAT_BMAP") };
            check!("bitmap {n} offers a service at first", all & 1 == 1, "{all:#x}");
            *set = if keep { all } else { 0 };
            check_eq!("bitmap {n} can be set", vcpu.set_reg(fw_bitmap(n), *set), Ok(()));
            check_eq!("bitmap {n} reads back as set", vcpu.get_reg(fw_bitmap(n)), Ok(*set));
            let unknown = vcpu.set_reg(fw_bitmap(n), all | 1 << 63);
            check_eq!("an unknown service in bitmap {n} is EINVAL", unknown, Err(Errno::EINVAL));
        }
        let seen = vcpu.run_until_sync(1)?;
        check_eq!("TRNG follows the standard bitmap", seen[0] != 0, keep[0]);
        check_eq!("stolen time follows the standard hypervisor bitmap", seen[1] != 0, keep[1]);
        check_eq!("the UID follows the vendor's bitmap", seen[2] != 0, keep[2]);
        check_eq!("the vendor's features follow the vendor's bitmap", seen[3] != 0, keep[2]);
        for (n, set) in (0_u16..).zip(set) {
            check_eq!(
                "bitmap {n} takes its own value after KVM_RUN",
                vcpu.set_reg(fw_bitmap(n), set),
                Ok(())
            );
            let other = vcpu.set_reg(fw_bitmap(n), set ^ 1);
            check_eq!(
                "another value of bitmap {n} after KVM_RUN is EBUSY",
                other,
                Err(Errno::EBUSY)
            );
        }
        vcpu.run_until_done()
    }

    /// The guest finds the record that userspace gave it, by KVM_ARM_VCPU_PVTIME_IPA (pvtime.rst).
    #[kvm_test(looks_for_stolen_time, requires(cap::STEAL_TIME), params = [given: true, not_given: false])]
    fn stolen_time_is_found(t: &mut OneVcpu, given: bool) -> TestResult {
        let set =
            |gpa: u64| t.vcpu.set_attr(KVM_ARM_VCPU_PVTIME_CTRL, KVM_ARM_VCPU_PVTIME_IPA, gpa);
        t.vm.ram().write(STOLEN_TIME, &[0xff; 64]);
        if given {
            check_eq!(
                "a record that is not aligned to 64 bytes is EINVAL",
                set(STOLEN_TIME + 32),
                Err(Errno::EINVAL)
            );
            check_eq!("a record without memory is EINVAL", set(layout::FREE), Err(Errno::EINVAL));
            check_eq!("a record in memory is accepted", set(STOLEN_TIME), Ok(()));
            check_eq!("a second record is EEXIST", set(STOLEN_TIME), Err(Errno::EEXIST));
        }
        t.vcpu.set_args(&[given.into()]);
        if given {
            t.vcpu.run_until_sync(1)?;
        }
        t.vcpu.run_until_done()
    }
}
