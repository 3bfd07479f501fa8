//! Messages to the host: fill this context's page, ring the bell.
#![expect(unsafe_code, reason = "writes the message page, which belongs to this context alone")]

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use guest_protocol::layout::vcpu_area;
use guest_protocol::{MAGIC, Message, NR_ARGS, NR_TEXTS, TEXT_BYTES, Verb};

use crate::arch::{self, TrapFrame};
use crate::context::Context;

/// Arguments that a sync can carry, both ways.
pub const SYNC_ARGS: usize = NR_ARGS - 1;

/// Fills a message.
struct Writer {
    message: *mut Message,
    used: usize,
    texts: usize,
}

impl Writer {
    fn new(verb: Verb) -> Self {
        let context = Context::current();
        let message = (context.area() + vcpu_area::MESSAGE) as *mut Message;
        // SAFETY: the page is mapped, and only its context writes it, with interrupts off.
        unsafe {
            (*message).magic = MAGIC;
            (*message).verb = verb as u32;
            (*message).vcpu = context.vcpu();
            (*message).level = context.level();
            (*message).text_len = [0; NR_TEXTS];
        }
        Self { message, used: 0, texts: 0 }
    }

    fn arg(&mut self, index: usize, value: u64) {
        // SAFETY: as in `new`; an index out of bounds panics.
        unsafe { (&mut (*self.message).args)[index] = value }
    }

    /// Adds the next text, cut off where the page ends.
    fn text(&mut self, text: fmt::Arguments<'_>) {
        let start = self.used;
        // Formatting into the page cannot fail: `write_str` below truncates.
        let _ = self.write_fmt(text);
        // SAFETY: as in `new`.
        unsafe { (&mut (*self.message).text_len)[self.texts] = (self.used - start) as u16 }
        self.texts += 1;
    }

    fn send(self) {
        arch::ring_doorbell(self.message as usize as u32);
    }
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_BYTES - self.used;
        let n = if text.len() <= room { text.len() } else { text.floor_char_boundary(room) };
        // SAFETY: as in `Writer::new`; the range is within `text`.
        unsafe {
            (&mut (*self.message).text)[self.used..self.used + n]
                .copy_from_slice(&text.as_bytes()[..n]);
        }
        self.used += n;
        Ok(())
    }
}

/// Builds and sends one message with interrupts off, so that a handler's own message cannot mix in.
fn message<R>(
    verb: Verb,
    fill: impl FnOnce(&mut Writer),
    after: impl FnOnce(*mut Message) -> R,
) -> R {
    arch::without_interrupts(|| {
        let mut writer = Writer::new(verb);
        fill(&mut writer);
        let page = writer.message;
        writer.send();
        after(page)
    })
}

/// Writes a line to the test's log.
pub fn log(line: fmt::Arguments<'_>) {
    message(Verb::Log, |m| m.text(line), |_| ());
}

/// Reports a named check; use the `check!` macros.
pub fn report_check(name: fmt::Arguments<'_>, pass: bool, detail: fmt::Arguments<'_>) {
    let fill = |m: &mut Writer| {
        m.arg(0, pass.into());
        m.text(name);
        if !pass {
            m.text(detail);
        }
    };
    message(Verb::Check, fill, |_| ());
}

/// Whether a format string has a placeholder (or an escaped brace).
pub const fn has_placeholder(format: &str) -> bool {
    let bytes = format.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'{' {
            return true;
        }
        i += 1;
    }
    false
}

/// Reports a measured value.
pub fn metric(name: &str, unit: &str, value: u64) {
    let fill = |m: &mut Writer| {
        m.arg(0, value);
        m.text(format_args!("{name}"));
        m.text(format_args!("{unit}"));
    };
    message(Verb::Metric, fill, |_| ());
}

/// Stops until the host half runs this vCPU again. Returns the host's answer.
pub fn sync(stage: u64, args: &[u64]) -> [u64; SYNC_ARGS] {
    let fill = |m: &mut Writer| {
        m.arg(0, stage);
        for (i, arg) in args.iter().enumerate() {
            m.arg(i + 1, *arg);
        }
    };
    message(Verb::Sync, fill, |page| {
        let mut answer = [0; SYNC_ARGS];
        // SAFETY: as in `Writer::new`; volatile because the host wrote it.
        let args = unsafe { core::ptr::addr_of!((*page).args).read_volatile() };
        answer.copy_from_slice(&args[1..]);
        answer
    })
}

/// Ends the test as skipped: `requirement` is missing, as only the guest could find out.
pub fn skip(requirement: fmt::Arguments<'_>) -> ! {
    message(Verb::Skip, |m| m.text(requirement), |_| ());
    arch::halt_forever();
}

/// Tells the host that the guest function has returned.
pub(crate) fn done() {
    message(Verb::Done, |_| (), |_| ());
}

/// Tells the host of a panic.
#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "only the payload panics through here"))]
pub(crate) fn abort(info: &PanicInfo<'_>) {
    let location = info.location();
    let fill = |m: &mut Writer| {
        m.arg(0, location.map_or(0, |l| l.line()).into());
        let [pc, sp, fp] = arch::here();
        m.arg(1, pc);
        m.arg(2, sp);
        m.arg(3, fp);
        m.text(format_args!("{}", info.message()));
        m.text(format_args!("{}", location.map_or("?", |l| l.file())));
    };
    message(Verb::Abort, fill, |_| ());
}

/// Tells the host of a trap that nobody expected, and stops this vCPU.
pub(crate) fn unexpected_trap(frame: &TrapFrame) -> ! {
    let fill = |m: &mut Writer| {
        for (i, value) in frame.to_args().into_iter().enumerate() {
            m.arg(i, value);
        }
    };
    message(Verb::Trap, fill, |_| ());
    arch::halt_forever();
}
