//! Nested paging (APM vol. 2, "Nested Paging"): faults of nested tables with their error codes and addresses,
//! accessed and dirty bits, and translations that a flush drops.
use crate::prelude::*;
use defs::x86::paging::ADDRESS;
use defs::x86::vmcb::{exit, intercept, npf, tlb_control};
use guest_runtime::asm::Blob;

const VMMCALL: u64 = exit::intercepted(intercept::VMMCALL);
/// What the guest touches: a page of its own.
const PAGE: u64 = layout::SCRATCH + 0x4000;
/// Another page, with another content.
const OTHER: u64 = PAGE + layout::PAGE_SIZE;

guest_asm! { READS, bits64: "mov rax, [rdi]", "vmmcall" }
guest_asm! { WRITES, bits64: "mov [rdi], rax", "vmmcall" }
guest_asm! { CALLS, bits64: "call rdi", "vmmcall" }
guest_asm! { RETURNS, bits64: "ret" }
guest_asm! { READS_TWICE, bits64: "mov rax, [rdi]", "vmmcall", "mov rax, [rdi]", "vmmcall" }

/// Bits of the error code of a page fault.
mod code {
    pub const P: u64 = 1 << 0;
    pub const W: u64 = 1 << 1;
    pub const U: u64 = 1 << 2;
    pub const RSVD: u64 = 1 << 3;
    pub const ID: u64 = 1 << 4;
}

fn run(svm: &mut Svm, code: &Blob) -> svm::Exit {
    RETURNS.copy_to(PAGE);
    svm.start(code);
    svm.gprs.rdi = PAGE;
    svm.vmcb().save.rax = 0;
    svm.run()
}

fn hypervisor() -> Svm {
    let mut svm = Svm::new();
    svm.use_nested_paging();
    svm
}

/// Changes the entry of one level that translates [`PAGE`], and drops what was there.
fn set(svm: &mut Svm, level: u32, change: impl FnOnce(u64) -> u64) -> u64 {
    let entry = svm.nested_entry(PAGE, level);
    let before: u64 = peek(entry);
    poke(entry, change(before));
    svm.flush();
    before
}

/// A wrong entry of the lowest level: what is wrong, the bits that it has set and cleared, the access, and
/// the error code beside the one that says that the guest's own access faulted.
struct Row {
    name: &'static str,
    set: Pte,
    clear: Pte,
    code: &'static Blob,
    error: u64,
}

const ROWS: [Row; 9] = {
    const fn row(name: &'static str, set: Pte, clear: Pte, code: &'static Blob, error: u64) -> Row {
        Row { name, set, clear, code, error: error | code::U }
    }
    const NONE: Pte = Pte::empty();
    [
        row("a read of a page that is not present", NONE, Pte::P, &READS, 0),
        row("a write of a page that is not present", NONE, Pte::P, &WRITES, code::W),
        row("a fetch from a page that is not present", NONE, Pte::P, &CALLS, code::ID),
        row("a write of a page that is read-only", NONE, Pte::RW, &WRITES, code::P | code::W),
        row("a read of a page that is the supervisor's", NONE, Pte::US, &READS, code::P),
        row(
            "a write of a page that is the supervisor's",
            NONE,
            Pte::US,
            &WRITES,
            code::P | code::W,
        ),
        row(
            "a fetch from a page that is the supervisor's",
            NONE,
            Pte::US,
            &CALLS,
            code::P | code::ID,
        ),
        row("a fetch from a page without execution", Pte::XD, NONE, &CALLS, code::P | code::ID),
        row("a read of a page without execution and not present", Pte::XD, Pte::P, &READS, 0),
    ]
};

#[guest]
fn faults(_: &mut Guest) {
    wrmsr(msr::IA32_EFER, rdmsr(msr::IA32_EFER) | Efer::NXE.bits());
    let mut svm = hypervisor();
    for Row { name, set: bits, clear, code, error } in ROWS {
        let before = set(&mut svm, 0, |entry| (entry | bits.bits()) & !clear.bits());
        let exit = run(&mut svm, code);
        check_eq!("{name} is a nested page fault", exit.code, exit::NPF);
        check_eq!("EXITINFO1 has the error code of {name}", exit.info[0], error | npf::FINAL);
        check_eq!("EXITINFO2 has the address of {name}", exit.info[1] & ADDRESS, PAGE);
        check!("no event was being delivered at {name}", !exit.int_info.is_valid());
        set(&mut svm, 0, |_| before);
        let exit = svm.run();
        check_eq!("the guest goes on when {name} is allowed", exit.code, VMMCALL);
    }
    let beyond = 1 << (cpuid(0x8000_0008, 0)[0] & 0xff);
    for (name, level, bits) in [
        ("an address that no physical address is", 0, beyond),
        ("a reserved bit of a 1 GiB entry", 2, Pte::PS.bits() | 1 << 13),
        ("a large page at the highest level", 3, Pte::PS.bits()),
    ] {
        let before = set(&mut svm, level, |entry| entry | bits);
        let exit = run(&mut svm, &READS);
        check_eq!("{name} in a nested table is a nested page fault", exit.code, exit::NPF);
        let error = code::P | code::U | code::RSVD;
        check_eq!("the error code of {name} says reserved", exit.info[0] & error, error);
        set(&mut svm, level, |_| before);
        let exit = svm.run();
        check_eq!("the guest goes on without {name}", exit.code, VMMCALL);
    }
}

#[guest]
fn walks(_: &mut Guest) {
    let mut svm = hypervisor();
    // The tables that translate the page: their addresses are in the entries above.
    let entry = mmu::entry_address(PAGE);
    let table = entry & ADDRESS;
    for (name, flags, error) in [
        ("not present", Pte::empty(), code::W | code::U),
        ("read-only", Pte::DEFAULT.difference(Pte::RW), code::P | code::W | code::U),
    ] {
        // Accessed bits are to be set, so that the walk writes.
        mmu::set_entry_no_flush(
            PAGE,
            mmu::Size::Small,
            mmu::entry(PAGE, mmu::Size::Small) & !Pte::A.bits(),
        );
        svm.protect_nested(table, flags);
        let exit = run(&mut svm, &READS);
        check_eq!(
            "a table of the guest's that is {name} is a nested page fault",
            exit.code,
            exit::NPF
        );
        let got = exit.info[0] & !code::P & !code::W;
        let wanted = (error | npf::WALK) & !code::P & !code::W;
        check_eq!("EXITINFO1 says that the walk of a table that is {name} faulted", got, wanted);
        check_eq!(
            "EXITINFO2 is in the guest's table that is {name}",
            exit.info[1] & ADDRESS,
            table
        );
        svm.protect_nested(table, Pte::DEFAULT);
        let exit = svm.run();
        check_eq!("the guest goes on when its table is not {name}", exit.code, VMMCALL);
    }
}

#[guest]
fn marks_pages(_: &mut Guest) {
    let mut svm = hypervisor();
    let clean = Pte::DEFAULT.difference(Pte::A.union(Pte::D));
    let marks = |svm: &mut Svm| {
        let entry: u64 = peek(svm.nested_entry(PAGE, 0));
        Pte::from_bits_retain(entry) & (Pte::A | Pte::D)
    };
    svm.protect_nested(PAGE, clean);
    run(&mut svm, &READS);
    check_eq!("a read marks the nested entry accessed, and not dirty", marks(&mut svm), Pte::A);
    run(&mut svm, &WRITES);
    check_eq!("a write marks the nested entry dirty", marks(&mut svm), Pte::A | Pte::D);
    svm.protect_nested(PAGE, clean);
    run(&mut svm, &CALLS);
    check_eq!("a fetch marks the nested entry accessed, and not dirty", marks(&mut svm), Pte::A);
}

#[guest]
fn drops_translations(_: &mut Guest) {
    let mut svm = hypervisor();
    poke(PAGE, 0x1111_u64);
    poke(OTHER, 0x2222_u64);
    let redirect = |svm: &mut Svm, to: u64| {
        let entry = svm.nested_entry(PAGE, 0);
        poke(entry, to | Pte::DEFAULT.bits());
    };
    for (name, prepare) in [
        ("TLB_CONTROL of every address space", flush_all as fn(&mut Svm)),
        ("TLB_CONTROL of the guest's address space", flush_guest),
        ("a new address space", new_asid),
        ("a new nested CR3", new_root),
    ] {
        redirect(&mut svm, PAGE);
        svm.flush();
        svm.start(&READS_TWICE);
        svm.gprs.rdi = PAGE;
        svm.run();
        check_eq!("the guest reads the first page before {name}", svm.vmcb().save.rax, 0x1111);
        redirect(&mut svm, OTHER);
        svm.vmcb().control.tlb_control = tlb_control::NOTHING;
        prepare(&mut svm);
        svm.skip();
        svm.run();
        check_eq!("the guest reads the other page after {name}", svm.vmcb().save.rax, 0x2222);
        svm.vmcb().control.tlb_control = tlb_control::NOTHING;
    }
}

fn flush_all(svm: &mut Svm) {
    svm.vmcb().control.tlb_control = tlb_control::FLUSH_ALL;
}

fn flush_guest(svm: &mut Svm) {
    svm.vmcb().control.tlb_control = tlb_control::FLUSH_GUEST;
}

fn new_asid(svm: &mut Svm) {
    svm.vmcb().control.guest_asid += 1;
}

/// The same entries below another highest table.
fn new_root(svm: &mut Svm) {
    let old = svm.vmcb().control.n_cr3;
    let root = guest_runtime::pages::take(1);
    poke(root, peek::<u64>(old));
    svm.vmcb().control.n_cr3 = root;
    svm.vmcb().control.guest_asid += 1;
}

#[guest]
fn keeps_its_own_tables(_: &mut Guest) {
    let mut svm = hypervisor();
    let own = read_cr3();
    let root = guest_runtime::pages::take(1);
    poke(root, peek::<u64>(mmu::root()));
    svm.start(&READS);
    svm.gprs.rdi = PAGE;
    svm.vmcb().save.cr3 = root;
    let exit = svm.run();
    check_eq!("the guest runs on tables of its own", exit.code, VMMCALL);
    check_eq!("the guest's CR3 is its own behind its exit", svm.vmcb().save.cr3, root);
    check_eq!("the hypervisor's CR3 is back behind its guest", read_cr3(), own);
    svm.vmcb().save.cr3 = beyond_ram();
    svm.flush();
    let exit = svm.run();
    check_eq!("a guest's CR3 without a nested page is a nested page fault", exit.code, exit::NPF);
    check_eq!(
        "EXITINFO2 is the guest's CR3 of its first walk",
        exit.info[1] & ADDRESS,
        beyond_ram()
    );
    check_eq!(
        "the first walk's fault is marked as one of a walk",
        exit.info[0] & npf::WALK,
        npf::WALK
    );
}

/// The lowest address that the nested tables do not map.
const fn beyond_ram() -> u64 {
    4 << 30
}

#[host]
mod host {
    use super::*;

    kvm_tests! { requires(cpu::SVM, cpu::NPT) }

    /// Each fault of a nested table has its error code and address.
    #[kvm_test(faults)]
    fn nested_page_faults_are_exits(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A fault while the guest's own tables are walked says so, and has the table's address.
    #[kvm_test(walks)]
    fn faults_of_table_walks_are_marked(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Accesses mark nested entries.
    #[kvm_test(marks_pages)]
    fn nested_entries_are_marked(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A flush, another address space and another root make the guest see changed nested tables.
    #[kvm_test(drops_translations)]
    fn changed_nested_tables_are_seen(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// CR3 of guest and hypervisor are two registers.
    #[kvm_test(keeps_its_own_tables)]
    fn cr3_is_kept_apart(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
