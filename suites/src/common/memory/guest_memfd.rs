//! guest_memfd, and the slots that are backed by it (api.rst 4.140, 4.142).
use crate::prelude::*;

use crate::common::memory::memslots::pages;
use std::os::fd::{AsRawFd, OwnedFd};
use vm::bindings::{KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};

kvm_tests! { requires(host::SMALL_SLOTS) }

const SLOT: u32 = 1;
const OTHER: u32 = 2;
const PAGE: u64 = layout::PAGE_SIZE;
const GPA: u64 = layout::FREE;
const GPA2: u64 = GPA + 64 * PAGE;
/// `KVM_CAP_GUEST_MEMFD_FLAGS`: the flags that KVM_CREATE_GUEST_MEMFD takes.
const CAP_GUEST_MEMFD_FLAGS: u32 = 244;

/// KVM_CREATE_GUEST_MEMFD.
fn create(vm: &impl AsRawFd, size: u64, flags: u64) -> Result<OwnedFd, Errno> {
    let mut bytes = [size.to_ne_bytes(), flags.to_ne_bytes()].concat();
    bytes.resize(size_of::<bindings::kvm_create_guest_memfd>(), 0);
    raw_ioctl_fd(vm, request::KVM_CREATE_GUEST_MEMFD, &mut bytes)
}

/// What KVM_SET_USER_MEMORY_REGION2 gets.
#[derive(Clone, Copy)]
struct Region {
    slot: u32,
    flags: u32,
    gpa: u64,
    size: u64,
    hva: u64,
    offset: u64,
    fd: i32,
}

fn set(vm: &impl AsRawFd, r: Region) -> Result<(), Errno> {
    let mut bytes = [r.slot.to_ne_bytes(), r.flags.to_ne_bytes()].concat();
    for value in [r.gpa, r.size, r.hva, r.offset] {
        bytes.extend(value.to_ne_bytes());
    }
    bytes.extend(r.fd.to_ne_bytes());
    bytes.resize(size_of::<bindings::kvm_userspace_memory_region2>(), 0);
    raw_ioctl(vm, request::KVM_SET_USER_MEMORY_REGION2, &mut bytes).map(drop)
}

fn delete(vm: &impl AsRawFd, slot: u32) -> Result<(), Errno> {
    let mut bytes = vec![0; size_of::<bindings::kvm_userspace_memory_region>()];
    bytes[..4].copy_from_slice(&slot.to_ne_bytes());
    raw_ioctl(vm, request::KVM_SET_USER_MEMORY_REGION, &mut bytes).map(drop)
}

fn extension(vm: &impl AsRawFd, cap: u32) -> i32 {
    raw_ioctl_value(vm, request::KVM_CHECK_EXTENSION, cap.into()).unwrap_or(0)
}

/// A VM without memory that takes a guest_memfd: /dev/kvm offers it for some machine types only,
/// before Linux 7 not for the default one.
fn vm_for_guest_memfd() -> TestResult<OwnedFd> {
    const KVM_X86_SW_PROTECTED_VM: u64 = 1;
    let system = System::get()?;
    let vms = [0, KVM_X86_SW_PROTECTED_VM]
        .into_iter()
        .filter_map(|kind| raw_ioctl_value_fd(system, request::KVM_CREATE_VM, kind).ok());
    let mut able = vms.filter(|vm| extension(vm, bindings::KVM_CAP_GUEST_MEMFD) > 0);
    able.next().ok_or_else(|| {
        Failure::Skip("KVM_CAP_GUEST_MEMFD on a VM of type 0 or KVM_X86_SW_PROTECTED_VM".into())
    })
}

/// api.rst 4.140: without KVM_MEM_GUEST_MEMFD, KVM_SET_USER_MEMORY_REGION2 is
/// KVM_SET_USER_MEMORY_REGION: the same slots, the same refusals.
#[kvm_test(requires(cap::USER_MEMORY2))]
fn region2_is_region_with_more_room(t: &mut OneVm) -> TestResult {
    let vm = &t.vm;
    let memory = pages(2, 0)?;
    let good =
        Region { slot: SLOT, flags: 0, gpa: GPA, size: PAGE, hva: memory.hva(), offset: 0, fd: -1 };
    check_eq!("KVM_SET_USER_MEMORY_REGION2 adds a slot", set(vm, good), Ok(()));
    let over = Region { slot: OTHER, ..good };
    check_eq!("a slot over an existing one is EEXIST", set(vm, over), Err(Errno::EEXIST));
    let bad = [
        ("GPA + 1", Region { gpa: GPA2 + 1, ..over }),
        ("size 1", Region { gpa: GPA2, size: 1, ..over }),
        ("userspace_addr + 1", Region { gpa: GPA2, hva: good.hva + 1, ..over }),
        ("flag bit 3", Region { gpa: GPA2, flags: 1 << 3, ..over }),
        ("flag bit 31", Region { gpa: GPA2, flags: 1 << 31, ..over }),
        ("another size of an existing slot", Region { size: 2 * PAGE, ..good }),
    ];
    for (what, region) in bad {
        check_eq!(
            "KVM_SET_USER_MEMORY_REGION2 with {what} is EINVAL",
            set(vm, region),
            Err(Errno::EINVAL)
        );
    }
    check_eq!("a refused region makes no slot", delete(vm, OTHER), Err(Errno::EINVAL));
    check_eq!("KVM_SET_USER_MEMORY_REGION deletes the slot", delete(vm, SLOT), Ok(()));
    check_eq!(
        "a slot that one ioctl deleted is gone for the other",
        set(vm, Region { size: 0, ..good }),
        Err(Errno::EINVAL)
    );
    let old = vm.set_region(SLOT, KVM_MEM_GUEST_MEMFD, GPA, PAGE, memory.hva());
    check_eq!("KVM_SET_USER_MEMORY_REGION has no guest_memfd", old, Err(Errno::EINVAL));
    Ok(())
}

/// api.rst 4.142: a guest_memfd has a size of whole pages, not 0, and known flags only; else EINVAL.
#[kvm_test(requires(cap::GUEST_MEMFD))]
fn create_guest_memfd_wants_whole_pages(_: &mut HostOnly) -> TestResult {
    let vm = &vm_for_guest_memfd()?;
    let sizes = [
        ("0", 0),
        ("1", 1),
        ("a page - 1", PAGE - 1),
        ("a page + 1", PAGE + 1),
        ("half a page", PAGE / 2),
        ("a page and a half", PAGE + PAGE / 2),
        ("2^63", 1 << 63),
        ("2^64 - a page", 0_u64.wrapping_sub(PAGE)),
        ("2^64 - 1", u64::MAX),
    ];
    for (what, size) in sizes {
        check_eq!(
            "a guest_memfd of size {what} is EINVAL",
            create(vm, size, 0).map(drop),
            Err(Errno::EINVAL)
        );
    }
    let flags = extension(vm, CAP_GUEST_MEMFD_FLAGS) as u64;
    for bit in (0..64).filter(|bit| flags >> bit & 1 == 0) {
        let got = create(vm, PAGE, 1 << bit).map(drop);
        check!(
            "a flag that is not offered is EINVAL",
            got == Err(Errno::EINVAL),
            "bit {bit}: {got:?}"
        );
    }
    check_eq!("a guest_memfd of one page is made", create(vm, PAGE, 0).map(drop), Ok(()));
    Ok(())
}

/// Flags of a guest_memfd that can back a slot by itself. Where no VM has private memory (arm64) only one
/// that can be mapped is taken; it is taken wherever it is offered.
fn backing_flags(vm: &impl AsRawFd) -> u64 {
    /// `GUEST_MEMFD_FLAG_MMAP`.
    const MMAP: u64 = 1 << 0;
    extension(vm, CAP_GUEST_MEMFD_FLAGS).max(0) as u64 & MMAP
}

/// api.rst 4.140: the part of a guest_memfd that backs a slot starts at a whole page, lies inside the
/// file, is of this VM's guest_memfd, and backs no other slot.
#[kvm_test(requires(cap::USER_MEMORY2, cap::GUEST_MEMFD))]
fn guest_memfd_binding_is_checked(_: &mut HostOnly) -> TestResult {
    const FILE_PAGES: u64 = 4;
    let vm = &vm_for_guest_memfd()?;
    let memory = pages(FILE_PAGES + 1, 0)?;
    let flags = backing_flags(vm);
    let file = create(vm, FILE_PAGES * PAGE, flags).ioctl("KVM_CREATE_GUEST_MEMFD")?;
    let null = std::fs::File::open("/dev/null").map_err(|e| Failure::Error(e.to_string()))?;
    let stranger = vm_for_guest_memfd()?;
    let theirs = create(&stranger, FILE_PAGES * PAGE, flags).ioctl("KVM_CREATE_GUEST_MEMFD")?;
    let good = Region {
        slot: SLOT,
        flags: KVM_MEM_GUEST_MEMFD,
        gpa: GPA,
        size: 2 * PAGE,
        hva: memory.hva(),
        offset: 0,
        fd: file.as_raw_fd(),
    };
    let bad = [
        ("offset 1", Region { offset: 1, ..good }),
        ("an offset of half a page", Region { offset: PAGE / 2, ..good }),
        ("an offset at the file's end", Region { offset: FILE_PAGES * PAGE, ..good }),
        ("a range across the file's end", Region { offset: (FILE_PAGES - 1) * PAGE, ..good }),
        ("a range larger than the file", Region { size: (FILE_PAGES + 1) * PAGE, ..good }),
        ("an offset of 2^63", Region { offset: 1 << 63, ..good }),
        ("an offset that wraps", Region { offset: 0_u64.wrapping_sub(PAGE), ..good }),
        ("a file that is no guest_memfd", Region { fd: null.as_raw_fd(), ..good }),
        ("a guest_memfd of another VM", Region { fd: theirs.as_raw_fd(), ..good }),
        ("KVM_MEM_READONLY", Region { flags: KVM_MEM_GUEST_MEMFD | KVM_MEM_READONLY, ..good }),
        (
            "KVM_MEM_LOG_DIRTY_PAGES",
            Region { flags: KVM_MEM_GUEST_MEMFD | KVM_MEM_LOG_DIRTY_PAGES, ..good },
        ),
    ];
    for (what, region) in bad {
        check_eq!("a region with {what} is EINVAL", set(vm, region), Err(Errno::EINVAL));
        check_eq!("a region with {what} makes no slot", delete(vm, SLOT), Err(Errno::EINVAL));
    }
    let closed = set(vm, Region { fd: -1, ..good });
    check!(
        "a closed descriptor as guest_memfd is EINVAL or EBADF",
        matches!(closed, Err(Errno::EINVAL | Errno::EBADF)),
        "{closed:?}"
    );

    check_eq!("the file's first half can be bound", set(vm, good), Ok(()));
    let second = Region { slot: OTHER, gpa: GPA2, ..good };
    for (what, offset) in [("same", 0), ("overlapping", PAGE)] {
        let got = set(vm, Region { offset, ..second });
        // EINVAL at first, EEXIST in kernels 7.x; api.rst names neither.
        let refused = matches!(got, Err(Errno::EEXIST | Errno::EINVAL));
        check!("the {what} part for another slot is EEXIST or EINVAL", refused, "{got:?}");
    }
    check_eq!(
        "the file's second half can be bound",
        set(vm, Region { offset: 2 * PAGE, ..second }),
        Ok(())
    );
    let moved = set(vm, Region { gpa: GPA + 8 * PAGE, ..good });
    check_eq!("a slot with a guest_memfd cannot be changed", moved, Err(Errno::EINVAL));
    check_eq!("a slot with a guest_memfd can be deleted", delete(vm, SLOT), Ok(()));
    let got = set(vm, Region { offset: PAGE, ..good });
    let refused = matches!(got, Err(Errno::EEXIST | Errno::EINVAL));
    check!("a part whose last page backs another slot is EEXIST or EINVAL", refused, "{got:?}");
    check_eq!("a deleted slot's part of the file is free again", set(vm, good), Ok(()));
    Ok(())
}

/// An offset whose end is no signed number, or none of 64 bits, lies behind every file.
#[kvm_test(requires(cap::USER_MEMORY2, cap::GUEST_MEMFD))]
fn binding_far_behind_the_file_is_refused(_: &mut HostOnly) -> TestResult {
    let vm = &vm_for_guest_memfd()?;
    let memory = pages(2, 0)?;
    let file = create(vm, 2 * PAGE, backing_flags(vm)).ioctl("KVM_CREATE_GUEST_MEMFD")?;
    let region = |offset| Region {
        slot: SLOT,
        flags: KVM_MEM_GUEST_MEMFD,
        gpa: GPA,
        size: 2 * PAGE,
        hva: memory.hva(),
        offset,
        fd: file.as_raw_fd(),
    };
    for (end, offset) in [
        ("2^63 - a page", (1 << 63) - 3 * PAGE),
        ("2^63", (1 << 63) - 2 * PAGE),
        ("2^63 + a page", (1 << 63) - PAGE),
        ("2^64 - a page", 0_u64.wrapping_sub(3 * PAGE)),
        ("2^64", 0_u64.wrapping_sub(2 * PAGE)),
    ] {
        let got = set(vm, region(offset));
        check_eq!("a region that ends at {end} of the file is EINVAL", got, Err(Errno::EINVAL));
        let slot = delete(vm, SLOT);
        check_eq!(
            "a region that ends at {end} of the file makes no slot",
            slot,
            Err(Errno::EINVAL)
        );
    }
    check_eq!("a region that ends with the file is accepted", set(vm, region(0)), Ok(()));
    Ok(())
}
