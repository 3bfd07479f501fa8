//! The MSRs of a vCPU that are state.

use std::sync::OnceLock;

use defs::x86::hyperv::msr::{SIEFP, SIMP, SINT0, SINT15, STIMER0_CONFIG, STIMER3_COUNT};
use defs::x86::msr::{
    IA32_FEATURE_CONTROL, IA32_MC0_CTL, IA32_MC0_CTL2, IA32_MCG_CAP, IA32_TIME_STAMP_COUNTER,
    IA32_TSC_DEADLINE,
};
use kvm_bindings::{Msrs, kvm_msr_entry};

use crate::failure::{Failure, TestResult};
use crate::{Ioctl, System, Vcpu};

/// MSRs that `KVM_GET_MSR_INDEX_LIST` leaves out although they are state, by first and last index.
const MORE: [(u32, u32); 12] = [
    // IA32_XSS.
    (0xda0, 0xda0),
    // MTRRs: variable, fixed, default type.
    (0x200, 0x20f),
    (0x250, 0x250),
    (0x258, 0x259),
    (0x268, 0x26f),
    (0x2ff, 0x2ff),
    // Machine checks; 32 banks, which have CTL, STATUS, ADDR and MISC behind each other.
    (IA32_MCG_CAP, IA32_MCG_CAP),
    (IA32_MC0_CTL2, IA32_MC0_CTL2 + 31),
    (IA32_MC0_CTL, IA32_MC0_CTL + 4 * 32 - 1),
    // Hyper-V's SynIC, and its timers: configuration, count.
    (SIEFP, SIMP),
    (SINT0, SINT15),
    (STIMER0_CONFIG, STIMER3_COUNT),
];

fn entries(list: &[(u32, u64)]) -> TestResult<Msrs> {
    let entry = |&(index, data): &(u32, u64)| kvm_msr_entry { index, data, ..Default::default() };
    Msrs::from_entries(&list.iter().map(entry).collect::<Vec<_>>())
        .map_err(|e| Failure::Error(format!("{e:?}")))
}

/// The list, once.
fn indices() -> TestResult<&'static [u32]> {
    static INDICES: OnceLock<Vec<u32>> = OnceLock::new();
    if let Some(indices) = INDICES.get() {
        return Ok(indices);
    }
    let list = System::get()?.fd().get_msr_index_list().ioctl("KVM_GET_MSR_INDEX_LIST")?;
    let mut indices = list.as_slice().to_vec();
    indices.extend(MORE.iter().flat_map(|&(first, last)| first..=last));
    indices.sort_unstable();
    indices.dedup();
    Ok(INDICES.get_or_init(|| indices))
}

/// What KVM takes at once.
const MOST: usize = 255;

/// Every MSR that the vCPU has.
pub(super) fn read_all(vcpu: &Vcpu) -> TestResult<Vec<(u32, u64)>> {
    let mut rest = indices()?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let asked: Vec<_> = rest.iter().take(MOST).map(|&index| (index, 0)).collect();
        let mut msrs = entries(&asked)?;
        let read = vcpu.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
        all.extend(msrs.as_slice()[..read].iter().map(|entry| (entry.index, entry.data)));
        // KVM stops at one that the vCPU does not have.
        let missing = usize::from(read < asked.len());
        rest = &rest[read + missing..];
    }
    Ok(all)
}

/// Writes those that KVM takes: of the others it shows whether they are what they were.
fn write_all(vcpu: &Vcpu, mut rest: &[(u32, u64)]) -> TestResult {
    while !rest.is_empty() {
        let some = &rest[..rest.len().min(MOST)];
        let written = vcpu.fd().set_msrs(&entries(some)?).ioctl("KVM_SET_MSRS")?;
        let refused = usize::from(written < some.len());
        rest = &rest[written + refused..];
    }
    Ok(())
}

fn some(list: &[(u32, u64)], wanted: impl Fn(u32) -> bool) -> Vec<(u32, u64)> {
    list.iter().filter(|(index, _)| wanted(*index)).copied().collect()
}

/// Writes what nested state depends on.
pub(super) fn write_first(vcpu: &Vcpu, list: &[(u32, u64)]) -> TestResult {
    write_all(vcpu, &some(list, |msr| msr == IA32_FEATURE_CONTROL))
}

/// Writes the TSC: it goes on from where it was.
pub(super) fn write_tsc(vcpu: &Vcpu, list: &[(u32, u64)]) -> TestResult {
    write_all(vcpu, &some(list, |msr| msr == IA32_TIME_STAMP_COUNTER))
}

/// Writes all but the TSC; the deadline, which may be over at once, behind the others.
pub(super) fn write(vcpu: &Vcpu, list: &[(u32, u64)]) -> TestResult {
    write_all(vcpu, &some(list, |msr| msr != IA32_TIME_STAMP_COUNTER && msr != IA32_TSC_DEADLINE))?;
    write_all(vcpu, &some(list, |msr| msr == IA32_TSC_DEADLINE))
}
