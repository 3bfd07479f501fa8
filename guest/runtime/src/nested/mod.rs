//! Small hypervisors for guests of guests: code of level 1 starts a function of the payload at level 2,
//! with a [`Context`] of its own, on whatever the architecture has for it. What the function may do there
//! is what any guest function may: `check!`, [`Guest::sync`](crate::Guest::sync), handlers, panics.

#[cfg(target_arch = "aarch64")]
pub mod el2;
#[cfg(target_arch = "x86_64")]
pub mod svm;
#[cfg(target_arch = "x86_64")]
pub mod vmx;

use core::fmt::Debug;

use crate::arch;
use crate::context::Context;
use crate::entry::EntryFn;

/// A hypervisor of the caller's level with one guest, which runs on the caller's vCPU.
pub trait Hypervisor {
    /// Why the guest stopped, in the architecture's terms.
    type Exit: Copy + Debug;

    /// The context that the guest runs on.
    fn context(&self) -> Context;

    /// Sets the guest's registers to the start of its context.
    fn reset(&mut self);

    /// Enters the guest once, and comes back with what made it exit.
    fn run(&mut self) -> Self::Exit;

    /// Moves the guest behind the instruction that it exited at.
    fn skip(&mut self);

    /// Whether the guest's function has returned.
    fn has_returned(&self, exit: &Self::Exit) -> bool;

    /// The message that the guest rings for, where its hypervisor intercepts what it rings with.
    fn doorbell(&self, exit: &Self::Exit) -> Option<u32>;

    /// Runs the guest from the start of `f` until its first exit.
    fn enter(&mut self, f: EntryFn) -> Self::Exit {
        self.enter_with(f, [0; 6])
    }

    /// The same with arguments, which `f` reads by [`Guest::arg`](crate::Guest::arg).
    fn enter_with(&mut self, f: EntryFn, args: [u64; 6]) -> Self::Exit {
        self.context().set_entry(f, args);
        self.reset();
        self.resume()
    }

    /// Goes on with the guest until its next exit. Messages to the host are passed on.
    fn resume(&mut self) -> Self::Exit {
        loop {
            let exit = self.run();
            let Some(message) = self.doorbell(&exit) else { return exit };
            arch::ring_doorbell(message);
            self.skip();
        }
    }

    /// Runs `f` from its start to its end.
    ///
    /// # Panics
    ///
    /// It exits before that.
    fn complete(&mut self, f: EntryFn) {
        let exit = self.enter(f);
        assert!(self.has_returned(&exit), "the guest has not returned: {exit:x?}");
    }
}
