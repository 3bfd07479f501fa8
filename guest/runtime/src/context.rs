//! Guest contexts: what code needs of its own at each level of virtualization. A context has an area of
//! [`VCPU_AREA_SIZE`](layout::VCPU_AREA_SIZE) bytes with its stacks, its message page, its trap handlers
//! and, in its [`StartInfo`], its level and the vCPU that runs it. Code finds its context by its stack
//! pointer.
#![expect(unsafe_code, reason = "reads and writes areas, which the host and hypervisors laid out")]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_protocol::layout::{self, vcpu_area};
use guest_protocol::{MAX_LEVEL, StartInfo};

use crate::arch;

/// A context, by the address of its area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context(u64);

/// Contexts of deeper levels that are in use.
static NR_NESTED: AtomicU64 = AtomicU64::new(0);

impl Context {
    /// The one that the caller runs on.
    pub fn current() -> Self {
        Self(layout::area_of_stack(arch::stack_pointer()))
    }

    /// A new one for a guest of the caller's.
    ///
    /// # Panics
    ///
    /// All [`layout::NR_NESTED_AREAS`] are in use, or the guest's level would be too deep.
    pub fn nested() -> Self {
        let nth = NR_NESTED.fetch_add(1, Ordering::Relaxed);
        assert!(nth < layout::NR_NESTED_AREAS, "no area left for another guest");
        let own = Self::current().info();
        let level = own.level + 1;
        assert!(level <= MAX_LEVEL, "level {level} is deeper than the host half follows");
        let context = Self(layout::nested_area(nth));
        assert!(own.ram_size >= context.0 + layout::VCPU_AREA_SIZE, "too little RAM for guests");
        arch::protect_stacks(context.0);
        context.put(StartInfo { entry: 0, level, args: [0; 6], ..own });
        context
    }

    /// Address of its area.
    pub const fn area(self) -> u64 {
        self.0
    }

    /// Where it finds what it starts with.
    pub const fn start_info(self) -> u64 {
        self.0 + vcpu_area::START_INFO
    }

    /// What it started with.
    pub(crate) fn info(self) -> StartInfo {
        // SAFETY: every area has one at this place, and every bit pattern is one.
        unsafe { (self.start_info() as *const StartInfo).read_volatile() }
    }

    pub(crate) fn put(self, info: StartInfo) {
        // SAFETY: the area is RAM of the context's own.
        unsafe { (self.start_info() as *mut StartInfo).write_volatile(info) };
    }

    /// Index of the vCPU that runs it, from 0.
    pub fn vcpu(self) -> u32 {
        self.info().vcpu
    }

    /// Its level: [`guest_protocol::L1`] for what the hypervisor under test runs.
    pub fn level(self) -> u32 {
        self.info().level
    }

    /// The word at `offset` of its area.
    pub(crate) fn word(self, offset: u64) -> u64 {
        crate::memory::peek(self.0 + offset)
    }

    /// Sets the word at `offset` of its area.
    pub(crate) fn set_word(self, offset: u64, value: u64) {
        crate::memory::poke(self.0 + offset, value);
    }
}

/// The index of the vCPU that runs the caller, from 0.
pub fn cpu_id() -> u64 {
    Context::current().vcpu().into()
}
